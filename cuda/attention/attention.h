#pragma once

#include "cbtm/device/attention_operands.h"
#include "runtime/context.h"

namespace cbtm::cuda {

/// Attention of training and of scoring, as AttentionForward / AttentionBackward of the device seam define it: all
/// heads, packed sequences, causal, dropout on the probabilities with the CPU's masks. float32, bfloat16 or float16,
/// all operands of one dtype, log_sum_exp float32; head_dim <= 256; scale > 0.
///
/// Kernels: bfloat16 and float16 with head_dim 32, 64, 80, 96 or 128 whose rows start at multiples of 16 bytes run on
/// tensor cores (attention_forward_mma.cuh, attention_backward_mma.cuh; on Hopper, if the program has code for 90a,
/// those of 64, 80 and 128 by attention/hopper); float32, other head sizes and other alignments on the general kernels
/// (attention_forward_general.cu, attention_backward_general.cu), which compute in float32. Below compute
/// capability 8.0 bfloat16 is an Error. Deterministic: sums are taken in an order that depends on the shapes only.
void attention_forward(Context& context, const AttentionForward& arguments);

void attention_backward(Context& context, const AttentionBackward& arguments);

/// Of attention_backward: two float32 a query row and head (log-sum-exp and row term, head by head); on Hopper the
/// gradients of the queries in float32 too, and a counter for each tile of 64 and head.
int64_t scratch_bytes(const Context& context, const AttentionBackward& arguments);

}  // namespace cbtm::cuda
