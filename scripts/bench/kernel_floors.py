"""The least bytes that the kernels of scripts/bench/kernels must move: formulas on the sizes of a workload.

Of a unit of the workload (a training step, a token of every sequence), all launches together. Names: L layers, H hidden
size, A heads, F = 4 H, V vocabulary, P parameters, M rows. What is not here (kernels whose bytes depend on the text, or
that add up what another kernel left) is measured against the different bytes that it touches.
"""

from kernel_workloads import SHAPE

STATISTICS = 8  # mean and rstd of a row, float32


class Model:
    """Sizes that follow from a shape (layers, hidden, heads, vocabulary, positions)."""

    def __init__(self, shape):
        self.L, self.H, self.A, self.V, self.positions = shape
        self.F = 4 * self.H
        self.P = self.V * self.H + (self.positions + 2) * self.H + self.L * (12 * self.H**2 + 13 * self.H) + 2 * self.H
        self.vectors = 8 * self.H  # gamma and beta, float32
        self.matrices = self.L * (4 * self.H**2 + 2 * self.H * self.F)  # of the layers
        self.biases = self.L * (5 * self.H + self.F)


def training(sizes, shape=SHAPE):
    model = Model(shape)
    L, H, A, V, P, VECTORS, BIASES = model.L, model.H, model.A, model.V, model.P, model.vectors, model.biases
    M, T = sizes["rows"], sizes["sequence"]
    return {
        # Ids and positions; a row of either table read, or once a position; the sum written.
        "embedding_forward_rows": 8 * M + 4 * M * H + 2 * T * H,
        # Residual and branch read, sum and normalised written; the first has no branch and writes no sum.
        "residual_layernorm_forward_rows": (2 * L * 8 + 4) * M * H + (2 * L + 1) * (STATISTICS * M + VECTORS),
        # Gradient, row and the residual's gradient read, two gradients written: the residual's, and with dropout's
        # mask the branch's. The last norm has no residual's gradient, the first no branch.
        "residual_layernorm_backward_rows": ((2 * L + 1) * 10 - 4) * M * H + (2 * L + 1) * (STATISTICS * M + VECTORS / 2),
        "attention_forward_mma": L * (8 * M * H + 4 * M * A),
        "attention_row_terms": L * (4 * M * H + 4 * M * A + 8 * M * A),
        # q, k, v, do and the rows' statistics read; dk and dv, or dq written.
        "attention_backward_keys_mma": L * (12 * M * H + 8 * M * A),
        "attention_backward_queries_mma": L * (10 * M * H + 8 * M * A),
        # On Hopper one kernel for both; dq is written in float32 and then rounded.
        "attention_forward_hopper": L * (8 * M * H + 4 * M * A),
        "attention_backward_hopper": L * (16 * M * H + 8 * M * A),
        "attention_query_gradient": L * 6 * M * H,
        "cross_entropy_in_shared": 4 * M * V + 8 * M,
        "add_losses": 4 * M + 16,
        "add_bias_gradients": 12 * BIASES,
        "square_sum_pieces": 4 * P,
        # Weight, gradient and two moments read; weight, moments, the working copy and the zeroed gradient written.
        "adamw_flat": 34 * P,
    }


def mixture(sizes, shape=SHAPE):
    """Of a training step with a mixture of E experts in one layer: kernels whose bytes do not depend on the routing."""
    model = Model(shape)
    H, M, E = model.H, sizes["rows"], sizes["mixture"]
    return {
        "router_logits_mma": 2 * M * H + 2 * E * H + 4 * M * E,
        # Logits read, choices and ranks written.
        "choose_experts_of_chunks": 4 * M * E + 16 * M,
        # Logits, choices, weights and their gradients read.
        "router_logit_gradients": 8 * M * E + 24 * M,
        "router_input_gradient": 4 * M * H + 4 * M * E + 2 * E * H,
    }


def decoding(sizes, shape=SHAPE):
    """A token of each of M sequences, with T tokens in the cache of each."""
    model = Model(shape)
    L, H, V, F, VECTORS, MATRICES, BIASES = (model.L, model.H, model.V, model.F, model.vectors, model.matrices,
                                             model.biases)
    M, T, weights, experts = sizes["rows"], sizes["cached"], sizes["weights"], sizes.get("experts", 1)
    layer_matrices, table = {
        "bf16": (2 * MATRICES, 2 * V * H),
        "int8": (MATRICES + 4 * BIASES, V * H + 4 * V),  # a float32 scale a row
        "int4": (MATRICES * 18 // 32, V * H + 4 * V),  # groups of 32 in 18 bytes; the table int8
    }[weights]
    activations = 2 * M * L * ((H + 3 * H) + 2 * H + 2 * (H + F)) + M * (2 * H + 4 * V)
    floors = {
        "decode_linear_mma": layer_matrices + table + 4 * BIASES + activations,
        # The cache read once; query and the new key and value read, output written, the new ones put into the cache.
        "attention_split_pieces": L * M * (4 * T * H + 12 * H),
        "residual_layernorm_forward_rows": (2 * L * 8 + 4) * M * H + (2 * L + 1) * VECTORS,
    }
    if weights == "bf16":
        floors["embedding_forward_rows"] = M * (8 + 6 * H)
    floors = {name: experts * floor for name, floor in floors.items()}
    if "experts" in sizes:  # logits are float32
        floors["expert_statistics"] = experts * 4 * V * M
        if sizes.get("product"):
            floors["multiply_experts"] = (experts + 1) * 4 * V * M
            floors["row_statistics"] = 4 * V * M
            floors["normalise_rows"] = 8 * V * M
        else:
            floors["mix_experts"] = (experts + 1) * 4 * V * M
        floors["sample_tokens_block_per_sequence"] = 4 * V * M
    return floors


def floors(sizes):
    if sizes.get("mixture"):
        return mixture(sizes) if sizes.get("training") else {}
    return training(sizes) if sizes.get("training") else decoding(sizes) if "rows" in sizes else {}


TENSOR_CORE = {"attention_forward_mma", "attention_backward_keys_mma", "attention_backward_queries_mma",
               "attention_forward_hopper", "attention_backward_hopper", "expert_rows_product", "expert_weight_gradient"}
# Bound by arithmetic at these sizes: their bytes are shown, and the goal for bytes is not theirs.
COMPUTE_BOUND = TENSOR_CORE | {"router_gradient_of_parts", "gram_tiles", "squared_distances_tiles", "nearest_centres_tiles"}
# Attention and what multiplies matrices: the goal for bank conflicts is theirs.
TILED = COMPUTE_BOUND | {"attention_row_terms", "attention_split_pieces", "decode_linear_mma", "expert_rows_decode",
                         "router_logits_mma", "router_input_gradient"}
