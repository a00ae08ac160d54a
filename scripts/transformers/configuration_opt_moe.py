"""The configuration of OPT with mixtures of experts, for transformers (docs/opt-moe-format.md)."""

from transformers import OPTConfig


class OPTMoEConfig(OPTConfig):
    model_type = "opt_moe"

    def __init__(self, num_experts=8, experts_per_token=2, moe_layers=(), router_aux_loss_coef=0.01, **settings):
        if experts_per_token != 2:
            raise ValueError(f"experts_per_token is {experts_per_token}; these models have two experts for each token")
        super().__init__(**settings)
        self.num_experts = num_experts
        self.experts_per_token = experts_per_token
        self.moe_layers = list(moe_layers)
        self.router_aux_loss_coef = router_aux_loss_coef
