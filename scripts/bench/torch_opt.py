"""OPT in PyTorch as one would write it for speed: fused q/k/v, scaled_dot_product_attention, tied output matrix.

The other side of the comparisons; needs torch only. Reads the float32 safetensors that cbtm and checkpoints.py write.
"""

import json
import struct
from pathlib import Path

import torch
import torch.nn.functional as F


class Layer(torch.nn.Module):
    def __init__(self, hidden, heads, ffn, dropout):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attention_norm = torch.nn.LayerNorm(hidden)
        self.qkv = torch.nn.Linear(hidden, 3 * hidden)
        self.out = torch.nn.Linear(hidden, hidden)
        self.ffn_norm = torch.nn.LayerNorm(hidden)
        self.fc1 = torch.nn.Linear(hidden, ffn)
        self.fc2 = torch.nn.Linear(ffn, hidden)

    def drop(self, x):
        return F.dropout(x, self.dropout) if self.training and self.dropout > 0 else x

    def forward(self, x, cache=None):
        """`cache`: (keys, values, tokens in them) of this layer, extended in place; then x holds only new tokens."""
        batch, tokens, hidden = x.shape
        q, k, v = self.qkv(self.attention_norm(x)).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if cache is not None:
            keys, values, before = cache
            keys[:, :, before:before + tokens] = k
            values[:, :, before:before + tokens] = v
            k, v = keys[:, :, :before + tokens], values[:, :, :before + tokens]
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=tokens > 1,
                                                  dropout_p=self.dropout if self.training else 0.0)
        x = x + self.drop(self.out(attended.transpose(1, 2).reshape(batch, tokens, hidden)))
        return x + self.drop(self.fc2(F.relu(self.fc1(self.ffn_norm(x)))))


class Opt(torch.nn.Module):
    def __init__(self, directory, dropout=0.0):
        super().__init__()
        directory = Path(directory)
        config = json.loads((directory / "config.json").read_text())
        if not config["do_layer_norm_before"] or config["word_embed_proj_dim"] != config["hidden_size"]:
            raise SystemExit(f"{directory}: only pre-norm models without projections are compared")
        hidden = config["hidden_size"]
        self.config = config
        self.tokens = torch.nn.Embedding(config["vocab_size"], hidden)
        self.positions = torch.nn.Embedding(config["max_position_embeddings"] + 2, hidden)
        self.layers = torch.nn.ModuleList(
            Layer(hidden, config["num_attention_heads"], config["ffn_dim"], dropout)
            for _ in range(config["num_hidden_layers"]))
        self.final_norm = torch.nn.LayerNorm(hidden)
        self.load(directory / "model.safetensors")

    @torch.no_grad()
    def load(self, path):
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        data = torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8)[8 + length:]

        def read(name):
            entry = header["model.decoder." + name]
            begin, end = entry["data_offsets"]
            if entry["dtype"] != "F32":
                raise SystemExit(f"{path}: {name} is {entry['dtype']}, but only float32 files are compared")
            return data[begin:end].clone().view(torch.float32).view(entry["shape"])

        def copy(module, name):
            module.weight.copy_(read(name + ".weight"))
            if name + ".bias" != "embed_tokens.bias" and not name.startswith("embed"):
                module.bias.copy_(read(name + ".bias"))

        copy(self.tokens, "embed_tokens")
        copy(self.positions, "embed_positions")
        for index, layer in enumerate(self.layers):
            prefix = f"layers.{index}."
            copy(layer.attention_norm, prefix + "self_attn_layer_norm")
            copy(layer.out, prefix + "self_attn.out_proj")
            copy(layer.ffn_norm, prefix + "final_layer_norm")
            copy(layer.fc1, prefix + "fc1")
            copy(layer.fc2, prefix + "fc2")
            for part in ("weight", "bias"):
                pieces = [read(f"{prefix}self_attn.{which}_proj.{part}") for which in "qkv"]
                getattr(layer.qkv, part).copy_(torch.cat(pieces))
        copy(self.final_norm, "final_layer_norm")

    def hidden(self, ids, caches=None, first_position=0):
        places = torch.arange(first_position + 2, first_position + 2 + ids.shape[1], device=ids.device)
        x = self.tokens(ids) + self.positions(places)
        for index, layer in enumerate(self.layers):
            x = layer(x, None if caches is None else (*caches[index], first_position))
        return self.final_norm(x)

    def forward(self, ids, targets):
        """Mean loss, nats."""
        logits = F.linear(self.hidden(ids), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
