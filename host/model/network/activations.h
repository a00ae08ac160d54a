#pragma once

#include <vector>

#include "cbtm/device/model_operators.h"
#include "cbtm/model/keep.h"
#include "cbtm/model/spec.h"

namespace cbtm {

/// What a block's forward pass leaves for its backward pass, [rows, ...] of the computing type (statistics float32).
/// Pre-norm: attention_input = norm(input), middle = input + branch, feed_forward_input = norm(middle), output = middle
/// + branch. Post-norm: middle and output are the sums before the norms, feed_forward_input = norm(middle),
/// normalized_output = norm(output); attention_input is unused.
struct BlockActivations {
  TensorView attention_input, qkv, attention, log_sum_exp, middle, feed_forward_input, feed_forward, output,
      normalized_output;
  TensorView feed_forward_saved;  ///< what the device keeps of the activation (LinearForward::saved)
  TensorView middle_mean, middle_rstd, output_mean, output_rstd;
};

/// Views of all activations of a batch in memory of a device. What is not kept shares memory: with Keep::nothing sums
/// are made in place, all blocks are one, and there are no statistics and no gradients.
struct Activations {
  Keep keep = Keep::everything;
  TensorView token_embedding;  ///< [rows, embedding width], only with projections
  TensorView embedding;        ///< [rows, hidden_size]: input of the first block
  TensorView embedding_mean, embedding_rstd;
  std::vector<BlockActivations> blocks;
  TensorView hidden;     ///< after the final norm (pre-norm)
  TensorView projected;  ///< [rows, embedding width], only with projections
  TensorView branch;     ///< output of attention or feed-forward before the residual sum
  TensorView losses;
  // Gradients.
  TensorView sum_gradient, branch_gradient, norm_gradient, qkv_gradient, attention_gradient, feed_forward_gradient;
  TensorView projected_gradient, token_embedding_gradient;
};

/// Activations in `memory`, 64-byte aligned and of activation_bytes() for the same arguments. `dtype`: of all but
/// statistics and losses.
Activations place_activations(void* memory, const ModelOperators& operators, const ModelSpec& spec, int64_t rows,
                              Keep keep, DType dtype);
int64_t activation_bytes(const ModelOperators& operators, const ModelSpec& spec, int64_t rows, Keep keep, DType dtype);

}  // namespace cbtm
