#include "model/network/linear.h"
#include "model/network/pass.h"

namespace cbtm {

void embed(const Pass& pass) {
  const ModelTensors& w = pass.weights;
  const TensorView out = pass.cut(pass.activations.embedding);
  const bool projects = pass.spec.has_projections();
  if (!projects && !w.tokens.weight_scales) {
    pass.operators().embedding_forward({.ids = pass.batch.ids,
                                        .token_table = w.tokens.weight,
                                        .positions = pass.batch.positions,
                                        .position_table = w.positions,
                                        .out = out});
    return;
  }
  const TensorView tokens = projects ? pass.cut(pass.activations.token_embedding) : out;
  pass.operators().embedding_forward({.ids = pass.batch.ids,
                                      .token_table = w.tokens.weight,
                                      .positions = {},
                                      .position_table = {},
                                      .out = tokens,
                                      .token_table_scales = w.tokens.weight_scales});
  if (projects) linear(pass, tokens, w.input_projection, out);
  pass.operators().embedding_forward({.ids = {},
                                      .token_table = {},
                                      .positions = pass.batch.positions,
                                      .position_table = w.positions,
                                      .out = out,
                                      .accumulate = true});
}

void embed_backward(const Pass& pass) {
  const ModelTensors& g = *pass.gradients;
  const TensorView gradient = pass.cut(pass.activations.sum_gradient);
  if (!pass.spec.has_projections()) {
    pass.operators().embedding_backward({.ids = pass.batch.ids,
                                         .positions = pass.batch.positions,
                                         .out_gradient = gradient,
                                         .token_table_gradient = g.tokens.weight,
                                         .position_table_gradient = g.positions});
    return;
  }
  pass.operators().embedding_backward({.ids = {},
                                       .positions = pass.batch.positions,
                                       .out_gradient = gradient,
                                       .token_table_gradient = {},
                                       .position_table_gradient = g.positions});
  const TensorView token_gradient = pass.cut(pass.activations.token_embedding_gradient);
  linear_backward(pass, pass.cut(pass.activations.token_embedding), pass.weights.input_projection, gradient,
                  g.input_projection, {.gradient = token_gradient});
  pass.operators().embedding_backward({.ids = pass.batch.ids,
                                       .positions = {},
                                       .out_gradient = token_gradient,
                                       .token_table_gradient = g.tokens.weight,
                                       .position_table_gradient = {}});
}

}  // namespace cbtm
