#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "cbtm/device/device.h"
#include "cbtm/device/model_operators.h"
#include "cbtm/model/spec.h"
#include "model/kv_pages.h"
#include "model/model_weights.h"
#include "model/network/activations.h"

namespace cbtm {

/// Dropout of a training step; probability 0: none.
struct StepDropout {
  float probability = 0;
  uint64_t seed = 0;
  uint32_t step = 0;
  int64_t first_row = 0;          ///< number of the batch's first row within the step's global batch
  int64_t attention_columns = 0;  ///< AttentionShape::dropout_columns
  ConstTensorView place;          ///< Dropout::place, or empty
};

/// Sequences one after another, on their way through a model. Sequence s has the rows offsets[s] .. offsets[s + 1].
struct Batch {
  std::span<const int32_t> offsets;  ///< host memory
  ConstTensorView ids;               ///< int32 [1, rows]
  ConstTensorView positions;         ///< int32 [1, rows]: rows of the position table
  StepDropout dropout;

  // Where keys and values come from: the sequences themselves, or the cache that these extend.
  KeyValuePages* cache = nullptr;
  ConstTensorView block_table;                ///< of the cache: int32 [sequences, pages]
  std::span<const int32_t> cached_lengths{};  ///< tokens that each sequence then holds; host memory
  RowSums row_sums = RowSums::any;            ///< of linear layers and attention

  float gradient_scale = 1;  ///< of each token's loss, in a backward pass

  int64_t padding = 0;  ///< rows behind those of the sequences that go through all but attention; nobody reads them

  int64_t rows() const { return offsets.back() + padding; }
};

/// A pass of one batch through a model: what its parts share. Every part has a file of its own in this folder, with its
/// backward pass beside its forward pass.
struct Pass {
  Device& device;
  const ModelSpec& spec;
  const ModelTensors& weights;
  const Activations& activations;
  Batch batch;
  const ModelTensors* gradients = nullptr;  ///< null without a backward pass

  ModelOperators& operators() const { return device.model_operators(); }
  /// The rows of the batch, of activations planned for more.
  TensorView cut(TensorView whole) const { return whole ? whole.row_range(0, batch.rows()) : whole; }
  /// The same of a mixture's sorted rows.
  TensorView cut_sorted(TensorView whole) const {
    return whole ? whole.row_range(0, kExpertsPerToken * batch.rows()) : whole;
  }
  /// The same of a value for each row: [1, rows].
  TensorView cut_values(TensorView whole) const { return whole ? whole.column_range(0, batch.rows()) : whole; }
  const BlockActivations& block(int64_t layer) const { return activations.blocks[static_cast<size_t>(layer)]; }
  const LayerTensors& weights_of(int64_t layer) const { return weights.layers[static_cast<size_t>(layer)]; }
  const LayerTensors& gradients_of(int64_t layer) const { return gradients->layers[static_cast<size_t>(layer)]; }
};

/// Dropout sites of a block, in the order of the forward pass. A mixture has its dropout inside the experts: the second
/// choice's site is the one after feed_forward_output.
enum class DropoutSite : uint32_t { attention_probabilities = 0, attention_output = 1, feed_forward_output = 2 };
Dropout dropout_of(const Pass& pass, int64_t layer, DropoutSite site);
/// Of the sum with the residual: none behind a mixture.
Dropout branch_dropout(const Pass& pass, int64_t layer);

// embedding.cpp
/// Activations::embedding = the tokens' embeddings (by the input projection, if there is one) + the positions'.
void embed(const Pass& pass);
/// From Activations::sum_gradient, that of the embedding.
void embed_backward(const Pass& pass);

// norm.cpp
/// The operator with the weights of `norm`; null: the sum alone, without a norm.
void residual_norm(const Pass& pass, const NormTensors* norm, ResidualLayerNormForward arguments);
/// `gradients`: null if `norm` is.
void residual_norm_backward(const Pass& pass, const NormTensors* norm, const NormTensors* gradients,
                            ResidualLayerNormBackward arguments);

// attention.cpp
/// Activations::branch = attention of `input`, by the output projection.
void attend(const Pass& pass, int64_t layer, ConstTensorView input);
/// From Activations::branch_gradient. `input_gradient` is written, or added to.
void attend_backward(const Pass& pass, int64_t layer, ConstTensorView input, TensorView input_gradient,
                     bool accumulate);

// feed_forward.cpp, which calls mixture.cpp where the layer is a mixture of experts
/// Activations::branch = feed-forward of `input`. `again`: for the backward pass; a mixture's choices are counted
/// already.
void feed_forward(const Pass& pass, int64_t layer, ConstTensorView input, bool again);
/// Computes again what the backward pass reads and Keep has not kept.
void feed_forward_again(const Pass& pass, int64_t layer, ConstTensorView input);
void feed_forward_backward(const Pass& pass, int64_t layer, ConstTensorView input, TensorView input_gradient,
                           bool accumulate);

// mixture.cpp: the same of a mixture
void mixture(const Pass& pass, int64_t layer, ConstTensorView input, bool again);
void mixture_again(const Pass& pass, int64_t layer, ConstTensorView input);
void mixture_backward(const Pass& pass, int64_t layer, ConstTensorView input, TensorView input_gradient,
                      bool accumulate);

// block.cpp
void block_forward(const Pass& pass, int64_t layer);
/// Computes again, from what is kept, what the backward pass of the block needs.
void block_again(const Pass& pass, int64_t layer);
/// In: Activations::norm_gradient, that of what the block's last norm writes, and, pre-norm, sum_gradient, that of its
/// output by the residual path behind it. Out: the same of the block before.
void block_backward(const Pass& pass, int64_t layer);
/// Of the first block's first norm (pre-norm), whose sum is the embedding itself.
void first_norm_backward(const Pass& pass);
/// What the last block and the final norm leave.
TensorView final_hidden(const Pass& pass);

// output.cpp
/// `hidden` [rows, hidden_size] by the output projection, if there is one, into `projected`.
TensorView project_output(const Pass& pass, TensorView hidden, TensorView projected);
/// logits [rows, vocab_size] of `projected` rows.
void output_logits(const Pass& pass, ConstTensorView projected, TensorView logits);
struct OutputLossPlaces {
  ConstTensorView targets;  ///< int32 [1, rows]
  TensorView losses;        ///< float32 [1, rows]
  TensorView loss_sum;      ///< float64 [1, 1] or empty
  float gradient_scale = 1;
};
/// Losses of the whole batch; with gradients also Activations::norm_gradient, that of final_hidden().
void output_loss(const Pass& pass, const OutputLossPlaces& places);

// network.cpp
/// The whole forward pass, up to final_hidden().
void forward(const Pass& pass);
/// The whole backward pass after output_loss(); after each block `block_done(layer)` is called.
void backward(const Pass& pass, const std::function<void(int64_t layer)>& block_done);

}  // namespace cbtm
