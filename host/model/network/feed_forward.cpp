#include "model/network/linear.h"
#include "model/network/pass.h"

namespace cbtm {

void feed_forward_in(const Pass& pass, int64_t layer, ConstTensorView input) {
  const BlockActivations& a = pass.block(layer);
  linear(pass, input, pass.weights_of(layer).feed_forward_in, pass.cut(a.feed_forward),
         pass.spec.block(layer).feed_forward.activation, pass.cut(a.feed_forward_saved));
}

void feed_forward_out(const Pass& pass, int64_t layer) {
  linear(pass, pass.cut(pass.block(layer).feed_forward), pass.weights_of(layer).feed_forward_out,
         pass.cut(pass.activations.branch));
}

void feed_forward_backward(const Pass& pass, int64_t layer, ConstTensorView input, TensorView input_gradient,
                           bool accumulate) {
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
