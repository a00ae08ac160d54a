// Residual + dropout + layer normalisation of the CUDA device: the CPU's dropout, and what is refused. tests/operators
// compares values and gradients.

#include "cbtm/device/model_operators.h"
#include "tests/cuda/attention_operands.h"

namespace cbtm {
namespace {

TEST_CASE("layernorm: dropout drops the CPU's elements, wherever a batch is cut, forward and backward") {
  for (const int64_t width : {1, 3, 31, 64, 129}) {
    for (const int64_t first_row : {int64_t{0}, int64_t{7}, (int64_t{1} << 34) / width}) {
      CAPTURE(width);
      CAPTURE(first_row);
      Matrix zeros(DType::bf16, 5, width, width, 0), ones(DType::bf16, 5, width, width, 0);
      Matrix sum(DType::bf16, 5, width, width, 0), gradient(DType::bf16, 5, width, width, 0);
      for (int64_t i = 0; i < 5 * width; ++i) ones.at(i / width, i % width) = 1;
      for (Matrix* matrix : {&zeros, &ones, &sum, &gradient}) matrix->upload();
      const Dropout dropout{
          .probability = 0.25f, .seed = 0x123456789abcdefull, .step = 5, .site = 9, .first_row = first_row};
      cpu_device().model_operators().residual_layernorm_forward({.residual = zeros.cpu(),
                                                                 .branch = ones.cpu(),
                                                                 .dropout = dropout,
                                                                 .gamma = {},
                                                                 .beta = {},
                                                                 .sum = sum.cpu(),
                                                                 .normalized = {},
                                                                 .mean = {},
                                                                 .rstd = {}});
      cuda_device().model_operators().residual_layernorm_forward({.residual = zeros.cuda(),
                                                                  .branch = ones.cuda(),
                                                                  .dropout = dropout,
                                                                  .gamma = {},
                                                                  .beta = {},
                                                                  .sum = sum.cuda(),
                                                                  .normalized = {},
                                                                  .mean = {},
                                                                  .rstd = {}});
      const std::vector<float> dropped = sum.from_cuda();
      for (size_t i = 0; i < dropped.size(); ++i) CHECK(dropped[i] == to_float(to_bf16(sum.from_cpu()[i])));
      cuda_device().model_operators().residual_layernorm_backward({.normalized_gradient = {},
                                                                   .sum_gradient_in = ones.cuda(),
                                                                   .sum = {},
                                                                   .mean = {},
                                                                   .rstd = {},
                                                                   .gamma = {},
                                                                   .dropout = dropout,
                                                                   .sum_gradient = ones.cuda(),
                                                                   .branch_gradient = gradient.cuda(),
                                                                   .gamma_gradient = {},
                                                                   .beta_gradient = {}});
      CHECK(gradient.from_cuda() == dropped);
      CHECK(ones.from_cuda() == ones.from_cpu());
    }
  }
}

TEST_CASE("layernorm: a hidden size beyond the largest is refused") {
  Matrix wide(DType::bf16, 1, 12296, 12296, 0);
  wide.randomize(1);
  CHECK_THROWS_WITH_AS(cuda_device().model_operators().residual_layernorm_forward({.residual = wide.cuda(),
                                                                                   .branch = {},
                                                                                   .dropout = {},
                                                                                   .gamma = {},
                                                                                   .beta = {},
                                                                                   .sum = {},
                                                                                   .normalized = wide.cuda(),
                                                                                   .mean = {},
                                                                                   .rstd = {}}),
                       doctest::Contains("up to 12288 columns"), Error);
}

}  // namespace
}  // namespace cbtm
