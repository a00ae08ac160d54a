// A mixture of experts in a feed-forward's place (docs/method.md, 'Mixture of experts').
#include "cbtm/base/ceil_divide.h"
#include "model/network/pass.h"

namespace cbtm {
namespace {

/// The layer's routing of the rows of this batch.
ExpertRouting routing_of(const Pass& pass, int64_t layer) {
  const ExpertRouting& whole = pass.block(layer).routing;
  const int64_t experts = pass.spec.block(layer).feed_forward.experts;
  return {.logits = pass.cut(whole.logits).column_range(0, experts),
          .choices = pass.cut(whole.choices),
          .weights = pass.cut(whole.weights),
          .sorted_row = pass.cut(whole.sorted_row),
          .offsets = whole.offsets.column_range(0, experts + 1),
          .sources = whole.sources.column_range(0, kExpertsPerToken * pass.batch.rows()),
          .first_counts = whole.first_counts.column_range(0, experts)};
}

/// In training an expert takes as many choices as it would get if they were spread evenly; else all of them.
int64_t capacity_of(const Pass& pass, int64_t layer) {
  if (pass.gradients == nullptr) return 0;
  return kExpertsPerToken * ceil_divide(pass.batch.rows(), pass.spec.block(layer).feed_forward.experts);
}

void route(const Pass& pass, int64_t layer, ConstTensorView input, bool counted) {
  const bool counting = counted && pass.gradients != nullptr;
  pass.operators().route_tokens({.input = input,
                                 .router = pass.weights_of(layer).router.weight,
                                 .capacity = capacity_of(pass, layer),
                                 .routing = routing_of(pass, layer),
                                 .statistics = counting ? pass.block(layer).statistics : TensorView()});
}

TensorView gather(const Pass& pass, int64_t layer, ConstTensorView input) {
  const TensorView sorted = pass.cut_sorted(pass.activations.sorted_input);
  pass.operators().gather_expert_rows({.source = input, .routing = routing_of(pass, layer), .sorted = sorted});
  return sorted;
}

void experts(const Pass& pass, int64_t layer, ConstTensorView input, const LinearTensors& tensors, TensorView output,
             Activation activation = Activation::none, TensorView saved = {}) {
  pass.operators().expert_linear_forward({.input = input,
                                          .offsets = routing_of(pass, layer).offsets,
                                          .weight = tensors.weight,
                                          .bias = tensors.bias,
                                          .activation = activation,
                                          .output = output,
                                          .saved = saved,
                                          .weight_scales = tensors.weight_scales,
                                          .row_sums = pass.batch.row_sums});
}

void first_matrices(const Pass& pass, int64_t layer, ConstTensorView input) {
  const BlockActivations& a = pass.block(layer);
  experts(pass, layer, gather(pass, layer, input), pass.weights_of(layer).feed_forward_in,
          pass.cut_sorted(a.feed_forward), pass.spec.block(layer).feed_forward.activation,
          pass.cut_sorted(a.feed_forward_saved));
}

void second_matrices(const Pass& pass, int64_t layer) {
  const BlockActivations& a = pass.block(layer);
  experts(pass, layer, pass.cut_sorted(a.feed_forward), pass.weights_of(layer).feed_forward_out,
          pass.cut_sorted(a.expert_output));
}

Dropout expert_dropout(const Pass& pass, int64_t layer) {
  return dropout_of(pass, layer, DropoutSite::feed_forward_output);
}

}  // namespace

void mixture(const Pass& pass, int64_t layer, ConstTensorView input, bool again) {
  route(pass, layer, input, /*counted=*/!again);
  first_matrices(pass, layer, input);
  second_matrices(pass, layer);
  pass.operators().combine_expert_rows({.sorted = pass.cut_sorted(pass.block(layer).expert_output),
                                        .routing = routing_of(pass, layer),
                                        .dropout = expert_dropout(pass, layer),
                                        .out = pass.cut(pass.activations.branch)});
}

void mixture_again(const Pass& pass, int64_t layer, ConstTensorView input) {
  const bool kept = pass.activations.keep == Keep::all_but_feed_forward;  // the routing and the experts' outputs
  if (!kept) route(pass, layer, input, /*counted=*/false);
  first_matrices(pass, layer, input);
  if (!kept) second_matrices(pass, layer);
}

void mixture_backward(const Pass& pass, int64_t layer, ConstTensorView input, TensorView input_gradient,
                      bool accumulate) {
  ModelOperators& operators = pass.operators();
  const LayerTensors& w = pass.weights_of(layer);
  const LayerTensors& g = pass.gradients_of(layer);
  const BlockActivations& a = pass.block(layer);
  const FeedForwardSpec& feed_forward = pass.spec.block(layer).feed_forward;
  const ExpertRouting routing = routing_of(pass, layer);
  const TensorView weight_gradients = pass.cut(pass.activations.choice_weight_gradients);
  // The experts' outputs, then their gradients, and last those of the experts' inputs.
  const TensorView sorted = pass.cut_sorted(a.expert_output);
  const TensorView inner_gradient = pass.cut_sorted(pass.activations.feed_forward_gradient);
  operators.combine_expert_rows_backward({.sorted = sorted,
                                          .out_gradient = pass.cut(pass.activations.branch_gradient),
                                          .routing = routing,
                                          .dropout = expert_dropout(pass, layer),
                                          .sorted_gradient = sorted,
                                          .weight_gradients = weight_gradients});
  operators.expert_linear_backward({.input = pass.cut_sorted(a.feed_forward),
                                    .offsets = routing.offsets,
                                    .weight = w.feed_forward_out.weight,
                                    .output_gradient = sorted,
                                    .input_gradient = inner_gradient,
                                    .input_activation = feed_forward.activation,
                                    .input_saved = pass.cut_sorted(a.feed_forward_saved),
                                    .weight_gradient = g.feed_forward_out.weight,
                                    .bias_gradient = g.feed_forward_out.bias});
  operators.expert_linear_backward({.input = gather(pass, layer, input),
                                    .offsets = routing.offsets,
                                    .weight = w.feed_forward_in.weight,
                                    .output_gradient = inner_gradient,
                                    .input_gradient = sorted,
                                    .weight_gradient = g.feed_forward_in.weight,
                                    .bias_gradient = g.feed_forward_in.bias});
  operators.scatter_expert_rows(
      {.sorted = sorted, .routing = routing, .out = input_gradient, .accumulate = accumulate});
  operators.route_tokens_backward(
      {.input = input,
       .router = w.router.weight,
       .routing = routing,
       .weight_gradients = weight_gradients,
       .balance_scale = static_cast<float>(feed_forward.balance_weight) * pass.batch.gradient_scale,
       .logit_gradients = pass.cut(pass.activations.logit_gradients).column_range(0, feed_forward.experts),
       .input_gradient = input_gradient,
       .router_gradient = g.router.weight});
}

}  // namespace cbtm
