// Output layer and cross-entropy of the CUDA device: what is not a number. tests/operators compares values and
// gradients.

#include "cbtm/device/model_operators.h"
#include "tests/cuda/attention_operands.h"

namespace cbtm {
namespace {

TEST_CASE("output loss: a hidden state that is not a number shows in its loss alone") {
  constexpr int64_t kRows = 4, kWidth = 8, kVocab = 333;
  Matrix hidden(DType::bf16, kRows, kWidth, kWidth, 0), table(DType::bf16, kVocab, kWidth, kWidth, 0);
  Matrix losses(DType::f32, 1, kRows, kRows, 0), hidden_gradient(DType::bf16, kRows, kWidth, kWidth, 0),
      table_gradient(DType::f32, kVocab, kWidth, kWidth, 0);
  hidden.randomize(1, 2), table.randomize(2), table_gradient.randomize(3);
  hidden.at(2, 3) = NAN;
  hidden.upload();
  const std::vector<int32_t> targets = {7, -100, 0, 332};
  const DeviceBuffer target_buffer = cuda_device().allocate(kRows * 4, "targets");
  const DeviceBuffer sum_buffer = cuda_device().allocate(8, "loss");
  double sum = 0.5;
  cuda_device().copy_to_device(target_buffer.data(), targets.data(), kRows * 4);
  cuda_device().copy_to_device(sum_buffer.data(), &sum, 8);
  cuda_device().model_operators().output_loss({.hidden = hidden.cuda(),
                                               .table = table.cuda(),
                                               .targets = target_buffer.view(DType::i32, 1, kRows),
                                               .losses = losses.cuda(),
                                               .loss_sum = sum_buffer.view(DType::f64, 1, 1),
                                               .hidden_gradient = hidden_gradient.cuda(),
                                               .table_gradient = table_gradient.cuda()});
  const std::vector<float> got = losses.from_cuda();
  for (size_t r = 0; r < 4; ++r) CHECK(std::isnan(got[r]) == (r == 2));
  cuda_device().copy_to_host(&sum, sum_buffer.data(), 8);
  CHECK(std::isnan(sum));
}

}  // namespace
}  // namespace cbtm
