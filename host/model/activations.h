#pragma once

#include <vector>

#include "cbtm/device/device.h"
#include "cbtm/device/model_operators.h"
#include "cbtm/model/opt_config.h"
#include "cbtm/model/training_model.h"

namespace cbtm {

/// What a layer's forward pass leaves for its backward pass, [rows, ...] of the training type (statistics float32).
/// Pre-norm: norm1 = LN1(input), middle = input + branch, norm2 = LN2(middle), output = middle + branch. Post-norm:
/// middle and output are the sums before the norms, norm2 = LN1(middle), normalized_output = LN2(output); norm1 is
/// unused.
struct LayerActivations {
  TensorView norm1, qkv, attention, log_sum_exp, middle, norm2, ffn, output, normalized_output;
  TensorView ffn_saved;  ///< of the activation (LinearForward::saved), where the device wants it
  TensorView middle_mean, middle_rstd, output_mean, output_rstd;
};

/// All activations of a micro-batch in one device buffer. With recomputation, layers share what is not kept.
struct Activations {
  /// Allocates on `device`; every view points into `buffer`. `dtype`: of all but statistics and losses.
  static Activations allocate(Device& device, const OptConfig& config, int64_t rows, Recompute recompute, DType dtype);

  DeviceBuffer buffer;
  TensorView token_embedding;  ///< [rows, word_embed_proj_dim], only with projections
  TensorView embedding;        ///< [rows, hidden_size]: input of the first layer
  TensorView embedding_mean, embedding_rstd;
  std::vector<LayerActivations> layers;
  TensorView hidden;     ///< after the last norm (pre-norm)
  TensorView projected;  ///< [rows, word_embed_proj_dim], only with projections
  TensorView branch;     ///< output of out_proj or fc2 before the residual sum
  TensorView losses;
  // Gradients.
  TensorView sum_gradient, branch_gradient, norm_gradient, qkv_gradient, attention_gradient, ffn_gradient;
  TensorView projected_gradient, token_embedding_gradient;
};

/// Bytes of Activations for these arguments.
int64_t activation_bytes(const ModelOperators& operators, const OptConfig& config, int64_t rows, Recompute recompute,
                         DType dtype);

}  // namespace cbtm
