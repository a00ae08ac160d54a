// Linear layers of the CUDA device: what the cases in tests/operators do not say. Bias gradients that are held back,
// and operands without rows.

#include "cbtm/device/model_operators.h"
#include "tests/cuda/attention_operands.h"

namespace cbtm {

TEST_CASE("bias gradients of a pass are added at its end, those of a pass that was given up never") {
  Device& device = cuda_device();
  ModelOperators& operators = device.model_operators();
  Matrix input(DType::bf16, 20, 24, 24, 0), weight(DType::bf16, 130, 24, 24, 0), gradient(DType::bf16, 20, 130, 130, 0);
  Matrix weight_gradient(DType::f32, 130, 24, 24, 0);
  input.randomize(1), weight.randomize(2), gradient.randomize(3), weight_gradient.randomize(4);
  constexpr int kLayers = 5;
  Matrix biases(DType::f32, kLayers, 130, 131, 1);
  const auto pass = [&] {
    for (int layer = 0; layer < kLayers; ++layer)
      operators.linear_backward({.input = input.cuda(),
                                 .weight = weight.cuda(),
                                 .output_gradient = gradient.cuda(),
                                 .input_gradient = {},
                                 .weight_gradient = weight_gradient.cuda(),
                                 .bias_gradient = biases.cuda().row_range(layer, 1)});
  };
  const auto after = [&](const auto& calls) {
    biases.randomize(5);
    calls();
    bool outside_kept = true;
    const std::vector<float> values = biases.from_cuda(&outside_kept);
    CHECK(outside_kept);
    return values;
  };
  const std::vector<float> before = after([] {});
  const std::vector<float> once = after([&] { pass(), operators.finish_backward(); });
  for (int64_t i = 0; i < kLayers * 130; ++i) CHECK(once[static_cast<size_t>(i)] != before[static_cast<size_t>(i)]);
  CHECK(after([&] { operators.finish_backward(); }) == before);  // nothing is held any more
  CHECK(after([&] { pass(), operators.finish_backward(); }) == once);
  // A recording that cannot be made is given up in the middle of the pass.
  const std::vector<int32_t> offsets = {0, 7, 20};
  CHECK(after([&] {
          CHECK(device.record([&] {
            pass();
            operators.attention_forward(
                {.shape = {.query_offsets = offsets, .key_offsets = offsets, .num_heads = 3, .head_dim = 8},
                 .query = input.cuda(),
                 .key = input.cuda(),
                 .value = input.cuda(),
                 .output = input.cuda(),
                 .log_sum_exp = {}});
          }) == nullptr);
          operators.finish_backward();
        }) == before);
}

TEST_CASE("no rows: nothing is written") {
  Matrix input(DType::bf16, 0, 8, 8, 0), weight(DType::bf16, 8, 8, 8, 0), output(DType::bf16, 0, 8, 8, 0);
  Matrix weight_gradient(DType::f32, 8, 8, 8, 0);
  weight.randomize(1), weight_gradient.randomize(2);
  LinearForward forward;
  forward.input = input.cuda();
  forward.weight = weight.cuda();
  forward.output = output.cuda();
  cuda_device().model_operators().linear_forward(forward);
  LinearBackward backward;
  backward.input = input.cuda();
  backward.weight = weight.cuda();
  backward.output_gradient = output.cuda();
  backward.weight_gradient = weight_gradient.cuda();
  cuda_device().model_operators().linear_backward(backward);
  CHECK(weight_gradient.from_cuda() == weight_gradient.from_cpu());
}

}  // namespace cbtm
