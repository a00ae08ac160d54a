#pragma once

#include <vector>

#include "cbtm/device/model_operators.h"
#include "cbtm/model/keep.h"
#include "cbtm/model/spec.h"

namespace cbtm {

/// What a block's forward pass leaves for its backward pass, [rows, ...] of the computing type (statistics float32).
/// Pre-norm: attention_input = norm(input), middle = input + branch, feed_forward_input = norm(middle), output = middle
/// + branch. Post-norm: middle and output are the sums before the norms, feed_forward_input = norm(middle),
/// normalized_output = norm(output); attention_input is unused. In a mixture of experts feed_forward and
/// feed_forward_saved have the sorted rows of cbtm/device/moe_operands.h, 2 * rows of them, and so has expert_output,
/// which the backward pass writes over.
struct BlockActivations {
  TensorView attention_input, qkv, attention, log_sum_exp, middle, feed_forward_input, feed_forward, output,
      normalized_output;
  TensorView feed_forward_saved;  ///< what the device keeps of the activation (LinearForward::saved)
  TensorView middle_mean, middle_rstd, output_mean, output_rstd;
  ExpertRouting routing;     ///< of a mixture
  TensorView expert_output;  ///< of a mixture: [2 * rows, hidden_size]
  TensorView statistics;     ///< of a mixture in training: RouteTokens::statistics
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
  // With mixtures of experts.
  TensorView sorted_input;             ///< [2 * rows, hidden_size]: input of the experts
  TensorView logit_gradients;          ///< float32 [rows, experts]
  TensorView choice_weight_gradients;  ///< float32 [rows, 2]
  /// float64 [mixtures, columns], of layers one after another; the caller zeroes them and reads them.
  TensorView statistics;
};

/// Activations in `memory`, 64-byte aligned and of activation_bytes() for the same arguments. `dtype`: of all but
/// statistics and losses.
Activations place_activations(void* memory, const ModelOperators& operators, const ModelSpec& spec, int64_t rows,
                              Keep keep, DType dtype);
int64_t activation_bytes(const ModelOperators& operators, const ModelSpec& spec, int64_t rows, Keep keep, DType dtype);

}  // namespace cbtm
