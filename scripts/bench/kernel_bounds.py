"""Bounds of the kernels' figures. scripts/bench/kernels fails where one is broken that is not excused here with a reason."""

import math

import kernel_ptxas
from kernel_names import family

CODE_BYTES_MAX = 64 << 10  # of an instance: half of what a multiprocessor's instruction cache holds
# Loads on their way that keep the memory busy: bandwidth times latency (some 700 ns), by the multiprocessors of an H100.
BYTES_IN_FLIGHT_MIN = 16 << 10
ATOMICS_MEET_MAX = 2
CALLS_MAX = {  # of the host, for a training step as a graph and for a token of 8 sequences
    "a training step": {"cudaMalloc": 0, "cudaFree": 0, "cudaEventQuery": 1, "cudaGraphLaunch": 1},
    "a token of 8 sequences": {"cudaMalloc": 0, "cudaFree": 0, "cudaMemcpy2DAsync": 0, "cudaEventQuery": 2},
}

# The least share of tensor-core instructions in the hot loop, for heads of 64 (attention) or the largest tile.
TENSOR_SHARE_MIN = {"attention_forward_mma": 0.04, "attention_backward_keys_mma": 0.07,
                    "attention_backward_queries_mma": 0.06, "decode_linear_mma": 0.015, "quantised_linear_mma": 0.035}

# (bound, kernel): why it may be broken.
EXCUSED = {
    ("code", "attention_backward_keys_general"): "any head size, float32: bound by arithmetic, a loop of 12 KB",
    ("code", "attention_backward_queries_general"): "the same",
    ("code", "attention_forward_general"): "the same",
    ("code", "attention_split_pieces"): "a loop of 16 KB; the rest is for lengths that are no multiple of a page",
    ("code", "decode_linear_mma"): "instances for operands with tails, which no real model has, and int4 for 32 rows",
    ("code", "decode_linear_warp_per_outputs"): "float32 activations, kept for checking",
    ("code", "hopper::product_kernel"): "the epilogue of a tile is unrolled behind the loop, which has four products",
    ("code", "residual_layernorm_forward_rows"): "float32 rows of more than 6144 columns, with tails",
    ("local", "sample_tokens_block_per_sequence"): "the frame of its rare path",
    ("code", "quantised_linear_mma"): "results of 128 x 128 are written by unrolled code behind the loop",
    ("code", "sample_tokens_block_per_sequence"): "one kernel for top-k, top-p and both; its loops are short",
    ("code", "solve_upper_warp_per_rows"): "one instance for each number of 32 columns",
    ("atomics", "attention_forward_hopper"): "arrivals at mbarriers, which the simulator counts as additions",
    ("cas", "attention_forward_hopper"): "the same",
    ("cas", "attention_backward_hopper"): "the same",
    ("in_flight", "attention_query_gradient"): "no loop around its loads: all of a thread's are on their way at once",
    ("in_flight", "residual_layernorm_backward_rows"): "the loop over rows is an outer one: a row's loads come together",
    ("in_flight", "residual_layernorm_forward_rows"): "the same",
    ("in_flight", "sample_tokens_block_per_sequence"): "scores lie in the cache; its longest inner loop is over a list",
    ("cas", "sample_tokens_block_per_sequence"): "where more than 2048 scores are equal: one lane a warp",
}


def static_rows(machine_code, ptxas, blocks_of):
    """Rows of the static table, by family: figures of each architecture. `blocks_of`: {instance: (threads, dynamic shared
    bytes)} of those that ran."""
    families = {}
    for name, by_architecture in machine_code.items():
        for architecture, figures in by_architecture.items():
            one = families.setdefault(family(name), {}).setdefault(
                architecture, {"code": 0, "loop": 0, "share": None, "cas": 0, "local": 0, "in_flight": None})
            one["code"] = max(one["code"], figures.code_bytes)
            one["cas"] = max(one["cas"], figures.cas_loops)
            one["local"] = max(one["local"], figures.local_accesses)
            one["loop"] = max(one["loop"], figures.loop_instructions)
            if figures.loop_tensor:
                share = figures.loop_tensor / figures.loop_instructions
                one["share"] = share if one["share"] is None else min(one["share"], share)
            if name in blocks_of and architecture in ptxas.get(name, {}) and not figures.bulk_loads:
                threads, shared = blocks_of[name]
                resident = kernel_ptxas.occupancy(architecture, ptxas[name][architecture][0], threads, shared)
                warps = kernel_ptxas.MULTIPROCESSORS[architecture][0]
                in_flight = figures.loop_load_bytes * 32 * math.floor((resident or 0) * warps)
                one["in_flight"] = in_flight if one["in_flight"] is None else min(one["in_flight"], in_flight)
    return families


def broken_static(families, streaming):
    """Lines for each bound that is broken without an excuse. `streaming`: kernels that memory bounds."""
    for name, by_architecture in sorted(families.items()):
        for architecture, one in sorted(by_architecture.items()):
            where = f"{name}, {architecture}"
            if one["code"] > CODE_BYTES_MAX and ("code", name) not in EXCUSED:
                yield f"{where}: {one['code'] >> 10} KiB of code, above {CODE_BYTES_MAX >> 10}"
            if one["cas"] and ("cas", name) not in EXCUSED:
                yield f"{where}: {one['cas']} compare-and-swap instructions in loops"
            if one["local"] and ("local", name) not in EXCUSED:
                yield f"{where}: {one['local']} accesses of local memory"
            least = TENSOR_SHARE_MIN.get(name)
            if least and (one["share"] or 0) < least:
                yield f"{where}: {100 * (one['share'] or 0):.1f} % of the hot loop on tensor cores, below {100 * least:.0f} %"
            if name in streaming and one["in_flight"] is not None and one["in_flight"] < BYTES_IN_FLIGHT_MIN and (
                    "in_flight", name) not in EXCUSED:
                yield f"{where}: {one['in_flight'] / 1024:.0f} KiB in flight a multiprocessor, below {BYTES_IN_FLIGHT_MIN >> 10}"


def broken_calls(calls):
    for unit, limits in CALLS_MAX.items():
        for call, most in limits.items():
            found = calls.get(unit, {}).get(call, (0, 0))[0]
            if found > most:
                yield f"{unit}: {found} calls of {call}, above {most}"


def broken_atomics(rows):
    for row in rows:
        where = f"{row['workload']}, {row['kernel']}"
        if (row["atomics_meet"] or 0) > ATOMICS_MEET_MAX and ("atomics", row["kernel"]) not in EXCUSED:
            yield f"{where}: {row['atomics_meet']:.1f} lanes of a warp meet at one address, above {ATOMICS_MEET_MAX}"
        if row["cas_loops"] and ("cas", row["kernel"]) not in EXCUSED:
            yield f"{where}: {row['cas_loops']} atomic additions in shared memory are loops of compare-and-swap"
        if row["spilled_bytes"] and ("spills", row["kernel"]) not in EXCUSED:
            yield f"{where}: {row['spilled_bytes']} bytes spilled"
