#include "model/network/linear.h"
#include "model/network/pass.h"

namespace cbtm {
namespace {

bool is_mixture(const Pass& pass, int64_t layer) { return pass.spec.block(layer).feed_forward.is_mixture(); }

/// The activations between the two matrices.
void first_matrix(const Pass& pass, int64_t layer, ConstTensorView input) {
  const BlockActivations& a = pass.block(layer);
  linear(pass, input, pass.weights_of(layer).feed_forward_in, pass.cut(a.feed_forward),
         pass.spec.block(layer).feed_forward.activation, pass.cut(a.feed_forward_saved));
}

}  // namespace

void feed_forward(const Pass& pass, int64_t layer, ConstTensorView input, bool again) {
  if (is_mixture(pass, layer)) return mixture(pass, layer, input, again);
  first_matrix(pass, layer, input);
  linear(pass, pass.cut(pass.block(layer).feed_forward), pass.weights_of(layer).feed_forward_out,
         pass.cut(pass.activations.branch));
}

void feed_forward_again(const Pass& pass, int64_t layer, ConstTensorView input) {
  if (is_mixture(pass, layer)) return mixture_again(pass, layer, input);
  first_matrix(pass, layer, input);
}

void feed_forward_backward(const Pass& pass, int64_t layer, ConstTensorView input, TensorView input_gradient,
                           bool accumulate) {
  if (is_mixture(pass, layer)) return mixture_backward(pass, layer, input, input_gradient, accumulate);
  const LayerTensors& w = pass.weights_of(layer);
  const LayerTensors& g = pass.gradients_of(layer);
  const BlockActivations& a = pass.block(layer);
  const TensorView gradient = pass.cut(pass.activations.feed_forward_gradient);
  linear_backward(pass, pass.cut(a.feed_forward), w.feed_forward_out, pass.cut(pass.activations.branch_gradient),
                  g.feed_forward_out,
                  {.gradient = gradient,
                   .activation = pass.spec.block(layer).feed_forward.activation,
                   .saved = pass.cut(a.feed_forward_saved)});
  linear_backward(pass, input, w.feed_forward_in, gradient, g.feed_forward_in,
                  {.gradient = input_gradient, .accumulate = accumulate});
}

}  // namespace cbtm
