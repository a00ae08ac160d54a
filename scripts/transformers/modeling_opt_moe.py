"""OPT with mixtures of experts, for transformers: logits and generation. Nothing is dropped, as in cbtm's evaluation; a
training with a capacity and a balance loss is cbtm's own (docs/method.md, 'Mixture of experts').
"""

import torch
from torch import nn
from transformers import OPTForCausalLM

from .configuration_opt_moe import OPTMoEConfig


class Expert(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.ffn_dim, bias=config.enable_bias)
        self.fc2 = nn.Linear(config.ffn_dim, config.hidden_size, bias=config.enable_bias)


class Mixture(nn.Module):
    """Two experts for each token, weighed by the softmax over their two router logits."""

    def __init__(self, config, activation):
        super().__init__()
        self.router = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = nn.ModuleList(Expert(config) for _ in range(config.num_experts))
        self.activation = activation

    def forward(self, hidden):
        tokens = hidden.reshape(-1, hidden.shape[-1])
        logits = tokens.float() @ self.router.weight.float().T
        first = logits.argmax(-1, keepdim=True)
        second = logits.scatter(-1, first, float("-inf")).argmax(-1, keepdim=True)
        choices = torch.cat([first, second], dim=-1)
        weights = logits.gather(-1, choices).softmax(-1)
        total = torch.zeros_like(tokens, dtype=torch.float32)
        for number, expert in enumerate(self.experts):
            rows, kind = (choices == number).nonzero(as_tuple=True)
            if rows.numel() == 0:
                continue
            out = expert.fc2(self.activation(expert.fc1(tokens[rows])))
            total.index_add_(0, rows, out.float() * weights[rows, kind].unsqueeze(-1))
        return total.to(hidden.dtype).reshape(hidden.shape)


class CallsMixture(nn.Module):
    """Stands where an OPT layer has fc1. The parameters are those of the layer's `moe`, so this module has none."""

    def __init__(self, mixture):
        super().__init__()
        object.__setattr__(self, "mixture", mixture)  # not as a submodule, which would give the tensors a second name

    def forward(self, hidden):
        return self.mixture(hidden)


class OPTMoEForCausalLM(OPTForCausalLM):
    config_class = OPTMoEConfig

    def __init__(self, config):
        super().__init__(config)
        for number in config.moe_layers:
            layer = self.model.decoder.layers[number]
            layer.moe = Mixture(config, layer.activation_fn)
            layer.fc1 = CallsMixture(layer.moe)  # an OPT layer computes fc2(activation_fn(fc1(x)))
            layer.activation_fn = nn.Identity()
            layer.fc2 = nn.Identity()
        self.post_init()
