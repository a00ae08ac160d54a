// AdamW with a loss scale: what the harness's bounds (tests/operators) cannot say, equal bits.

#include "cbtm/device/optimizer_operators.h"
#include "tests/device/operands.h"

namespace cbtm {
namespace {

TEST_CASE("adamw divides the loss scale out again and rounds the working copy") {
  Device& device = device_under_test();
  constexpr float kLossScale = 1024;  // a power of two: both runs must give the same bits
  const std::vector<float> start = random_values(37, 1), gradients = random_values(37, 2);
  std::vector<float> weights[2];
  std::vector<bf16> working(start.size());
  for (const bool scaled : {false, true}) {
    std::vector<float> w = start, g = gradients, m = random_values(37, 3, 0.1f), v(m.size(), 0.01f);
    if (scaled)
      for (float& value : g) value *= kLossScale;
    double square_sum = 0;
    device.optimizer_operators().gradient_square_sum(as_matrix(g, 1), view_of(&square_sum, 1, 1));
    device.optimizer_operators().adamw({.weights = as_matrix(w, 1),
                                        .gradients = as_matrix(g, 1),
                                        .first_moments = as_matrix(m, 1),
                                        .second_moments = as_matrix(v, 1),
                                        .working_weights = scaled ? view_of(working.data(), 1, 37) : TensorView(),
                                        .gradient_square_sum = view_of(&square_sum, 1, 1),
                                        .loss_scale = scaled ? kLossScale : 1.0f,
                                        .decayed_count = 20,
                                        .learning_rate = 0.1f,
                                        .weight_decay = 0.1f,
                                        .clip_norm = 1});
    weights[scaled] = w;
  }
  CHECK(weights[0] == weights[1]);
  CHECK(weights[0] != start);
  for (size_t i = 0; i < working.size(); ++i) CHECK(working[i].bits == to_bf16(weights[1][i]).bits);
}

}  // namespace
}  // namespace cbtm
