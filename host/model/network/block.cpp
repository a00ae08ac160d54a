#include "model/network/pass.h"

namespace cbtm {
namespace {

/// What a block reads: the embedding, or what the block before leaves.
TensorView block_input(const Pass& pass, int64_t layer) {
  if (layer == 0) return pass.cut(pass.activations.embedding);
  const BlockActivations& before = pass.block(layer - 1);
  return pass.cut(pass.spec.pre_norm() ? before.output : before.normalized_output);
}

/// The norm behind a block: the next block's first or the model's last (pre-norm), or its own second (post-norm). Null
/// if there is none.
const NormTensors* closing_norm(const Pass& pass, const ModelTensors& tensors, int64_t layer) {
  if (!pass.spec.pre_norm()) return &tensors.layers[static_cast<size_t>(layer)].feed_forward_norm;
  if (layer + 1 < pass.spec.layers()) return &tensors.layers[static_cast<size_t>(layer) + 1].attention_norm;
  return pass.spec.final_norm ? &tensors.final_norm : nullptr;
}

TensorView closing_normalized(const Pass& pass, int64_t layer) {
  if (!pass.spec.pre_norm()) return pass.cut(pass.block(layer).normalized_output);
  if (layer + 1 < pass.spec.layers()) return pass.cut(pass.block(layer + 1).attention_input);
  return pass.cut(pass.activations.hidden);
}

/// The norm between attention and feed-forward.
const NormTensors* middle_norm(const Pass& pass, const LayerTensors& tensors) {
  return pass.spec.pre_norm() ? &tensors.feed_forward_norm : &tensors.attention_norm;
}

/// Of a pre-norm block: the norm before attention, which the block before writes in a pass through all of them.
void first_norm(const Pass& pass, int64_t layer) {
  const bool first = layer == 0;
  residual_norm(pass, &pass.weights_of(layer).attention_norm,
                {.residual = block_input(pass, layer),
                 .branch = {},
                 .sum = {},
                 .normalized = pass.cut(pass.block(layer).attention_input),
                 .mean = pass.cut_values(first ? pass.activations.embedding_mean : pass.block(layer - 1).output_mean),
                 .rstd = pass.cut_values(first ? pass.activations.embedding_rstd : pass.block(layer - 1).output_rstd)});
}

/// From the input (pre-norm: the normalised one) to what the feed-forward reads.
void to_feed_forward(const Pass& pass, int64_t layer) {
  const BlockActivations& a = pass.block(layer);
  const TensorView input = block_input(pass, layer);
  attend(pass, layer, pass.spec.pre_norm() ? pass.cut(a.attention_input) : input);
  residual_norm(pass, middle_norm(pass, pass.weights_of(layer)),
                {.residual = input,
                 .branch = pass.cut(pass.activations.branch),
                 .dropout = dropout_of(pass, layer, DropoutSite::attention_output),
                 .sum = pass.cut(a.middle),
                 .normalized = pass.cut(a.feed_forward_input),
                 .mean = pass.cut_values(a.middle_mean),
                 .rstd = pass.cut_values(a.middle_rstd)});
}

/// From there to the block's output and the norm of it.
void from_feed_forward(const Pass& pass, int64_t layer, bool again) {
  const BlockActivations& a = pass.block(layer);
  feed_forward(pass, layer, pass.cut(a.feed_forward_input), again);
  residual_norm(pass, closing_norm(pass, pass.weights, layer),
                {.residual = pass.cut(pass.spec.pre_norm() ? a.middle : a.feed_forward_input),
                 .branch = pass.cut(pass.activations.branch),
                 .dropout = branch_dropout(pass, layer),
                 .sum = pass.cut(a.output),
                 .normalized = closing_normalized(pass, layer),
                 .mean = pass.cut_values(a.output_mean),
                 .rstd = pass.cut_values(a.output_rstd)});
}

}  // namespace

Dropout dropout_of(const Pass& pass, int64_t layer, DropoutSite site) {
  constexpr uint32_t kSitesPerBlock = 4;
  const StepDropout& dropout = pass.batch.dropout;
  return {.probability = dropout.probability,
          .seed = dropout.seed,
          .step = dropout.step,
          .site = static_cast<uint32_t>(layer) * kSitesPerBlock + static_cast<uint32_t>(site),
          .first_row = dropout.first_row,
          .place = dropout.place};
}

Dropout branch_dropout(const Pass& pass, int64_t layer) {
  if (pass.spec.block(layer).feed_forward.is_mixture()) return {};
  return dropout_of(pass, layer, DropoutSite::feed_forward_output);
}

void block_forward(const Pass& pass, int64_t layer) {
  const Device::Phase phase(pass.device, "layer");
  if (pass.spec.pre_norm() && layer == 0) first_norm(pass, layer);
  to_feed_forward(pass, layer);
  from_feed_forward(pass, layer, /*again=*/false);
}

void block_again(const Pass& pass, int64_t layer) {
  const Device::Phase phase(pass.device, "layer");
  const TensorView input = pass.cut(pass.block(layer).feed_forward_input);
  if (pass.activations.keep == Keep::all_but_feed_forward) return feed_forward_again(pass, layer, input);
  if (pass.activations.keep != Keep::block_inputs) return;
  if (pass.spec.pre_norm()) first_norm(pass, layer);
  to_feed_forward(pass, layer);
  if (pass.spec.pre_norm())
    feed_forward_again(pass, layer, input);
  else
    from_feed_forward(pass, layer, /*again=*/true);  // its output is not kept either
}

void block_backward(const Pass& pass, int64_t layer) {
  const Device::Phase phase(pass.device, "layer backward");
  const BlockActivations& a = pass.block(layer);
  const bool pre_norm = pass.spec.pre_norm();
  const TensorView sum_gradient = pass.cut(pass.activations.sum_gradient);
  const TensorView branch_gradient = pass.cut(pass.activations.branch_gradient);
  const TensorView norm_gradient = pass.cut(pass.activations.norm_gradient);
  block_again(pass, layer);

  // The norm behind the block and the sum with the feed-forward branch.
  const NormTensors* norm = closing_norm(pass, pass.weights, layer);
  const bool last = layer + 1 == pass.spec.layers();
  ConstTensorView behind;  // the gradient by the residual path behind the block
  if (norm == nullptr)
    behind = norm_gradient;
  else if (pre_norm && !last)
    behind = sum_gradient;
  residual_norm_backward(pass, norm, closing_norm(pass, *pass.gradients, layer),
                         {.normalized_gradient = norm_gradient,
                          .sum_gradient_in = behind,
                          .sum = pass.cut(a.output),
                          .mean = pass.cut_values(a.output_mean),
                          .rstd = pass.cut_values(a.output_rstd),
                          .dropout = branch_dropout(pass, layer),
                          .sum_gradient = sum_gradient,
                          .branch_gradient = branch_gradient});
  // Post-norm: the residual path and the branch meet at the branch's input, which is the norm's output.
  const TensorView input_gradient = pre_norm ? norm_gradient : sum_gradient;
  feed_forward_backward(pass, layer, pass.cut(a.feed_forward_input), input_gradient, /*accumulate=*/!pre_norm);

  // The norm in the middle and the sum with the attention branch.
  residual_norm_backward(pass, middle_norm(pass, pass.weights_of(layer)), middle_norm(pass, pass.gradients_of(layer)),
                         {.normalized_gradient = input_gradient,
                          .sum_gradient_in = pre_norm ? sum_gradient : TensorView(),
                          .sum = pass.cut(a.middle),
                          .mean = pass.cut_values(a.middle_mean),
                          .rstd = pass.cut_values(a.middle_rstd),
                          .dropout = dropout_of(pass, layer, DropoutSite::attention_output),
                          .sum_gradient = sum_gradient,
                          .branch_gradient = branch_gradient});
  attend_backward(pass, layer, pre_norm ? pass.cut(a.attention_input) : block_input(pass, layer), input_gradient,
                  /*accumulate=*/!pre_norm);
  if (!pre_norm && layer > 0) pass.device.copy(norm_gradient, sum_gradient);
}

void first_norm_backward(const Pass& pass) {
  const TensorView gradient = pass.cut(pass.activations.sum_gradient);
  residual_norm_backward(pass, &pass.weights_of(0).attention_norm, &pass.gradients_of(0).attention_norm,
                         {.normalized_gradient = pass.cut(pass.activations.norm_gradient),
                          .sum_gradient_in = gradient,
                          .sum = pass.cut(pass.activations.embedding),
                          .mean = pass.cut_values(pass.activations.embedding_mean),
                          .rstd = pass.cut_values(pass.activations.embedding_rstd),
                          .sum_gradient = gradient,
                          .branch_gradient = {}});
}

TensorView final_hidden(const Pass& pass) {
  const BlockActivations& last = pass.activations.blocks.back();
  if (!pass.spec.pre_norm()) return pass.cut(last.normalized_output);
  return pass.cut(pass.spec.final_norm ? pass.activations.hidden : last.output);
}

}  // namespace cbtm
