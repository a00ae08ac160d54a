#include "model/network/linear.h"
#include "model/network/pass.h"

namespace cbtm {

TensorView project_output(const Pass& pass, TensorView hidden, TensorView projected) {
  if (!pass.spec.has_projections()) return hidden;
  linear(pass, hidden, pass.weights.output_projection, projected);
  return projected;
}

void output_logits(const Pass& pass, ConstTensorView projected, TensorView logits) {
  linear(pass, projected, pass.weights.output, logits);
}

void output_loss(const Pass& pass, const OutputLossPlaces& places) {
  const Activations& a = pass.activations;
  const bool projects = pass.spec.has_projections();
  const TensorView hidden = final_hidden(pass);
  const TensorView projected = project_output(pass, hidden, pass.cut(a.projected));
  const TensorView norm_gradient = pass.cut(a.norm_gradient);
  const TensorView gradient = projects ? pass.cut(a.projected_gradient) : norm_gradient;
  const bool backward = pass.gradients != nullptr;
  pass.operators().output_loss({.hidden = projected,
                                .table = pass.weights.output.weight,
                                .targets = places.targets,
                                .losses = places.losses,
                                .loss_sum = places.loss_sum,
                                .gradient_scale = places.gradient_scale,
                                .hidden_gradient = backward ? gradient : TensorView(),
                                .table_gradient = backward ? pass.gradients->output.weight : TensorView(),
                                .table_scales = pass.weights.output.weight_scales});
  if (backward && projects)
    linear_backward(pass, hidden, pass.weights.output_projection, gradient, pass.gradients->output_projection,
                    {.gradient = norm_gradient});
}

}  // namespace cbtm
