// Attention over a paged cache against the CPU device: a prompt, single tokens and a second prompt, of sequences of
// unequal lengths whose pages lie in no order. Tolerances as in attention_test.cpp, with bounds instead of sums:
// |value| <= 1, so that a weighted sum of values is off by at most (u + 4 score_error + (32 + 2 keys) e) and its
// rounding; score_error <= (head_dim + 4) e scale head_dim.

#include <cmath>

#include "attention_operands.h"
#include "cbtm/device/model_operators.h"
#include "tests/cuda/half_precision.h"

namespace cbtm {
namespace {

void check_cached(DType dtype, int64_t num_heads, int64_t head_dim, int64_t page_size, int64_t slack) {
  CAPTURE(dtype_name(dtype));
  CAPTURE(head_dim);
  const int64_t width = num_heads * head_dim;
  const int64_t pages_max = (150 + page_size - 1) / page_size;
  const int64_t pages = 3 * pages_max;
  Matrix keys(dtype, pages * page_size, width, width + slack, slack / 2);
  Matrix values(dtype, pages * page_size, width, width + slack, slack / 2);
  keys.randomize(1);
  values.randomize(2);
  std::vector<int32_t> table(static_cast<size_t>(pages));
  for (size_t i = 0; i < table.size(); ++i)
    table[i] = static_cast<int32_t>((i * 11 + 3) % table.size());  // 11 does not divide the number of pages
  REQUIRE(table.size() % 11 != 0);
  const DeviceBuffer device_table = cuda_device().allocate(pages * 4, "a test's block table");
  cuda_device().copy_to_device(device_table.data(), table.data(), pages * 4);

  std::vector<int32_t> lengths = {0, 0, 0};
  const std::vector<std::vector<int32_t>> steps = {{70, 3, 0}, {1, 1, 1}, {1, 0, 1}, {40, 20, 2}};
  uint64_t seed = 10;
  for (const std::vector<int32_t>& counts : steps) {
    std::vector<int32_t> offsets{0};
    for (size_t s = 0; s < counts.size(); ++s) {
      offsets.push_back(offsets.back() + counts[s]);
      lengths[s] += counts[s];
    }
    const int64_t rows = offsets.back();
    Matrix query(dtype, rows, width, 3 * width + slack, 0);
    Matrix key(dtype, rows, width, 3 * width + slack, width + slack / 2);
    Matrix value(dtype, rows, width, 3 * width + slack, 2 * width + slack / 2);
    Matrix output(dtype, rows, width, width + slack, 0);
    for (Matrix* matrix : {&query, &key, &value, &output}) matrix->randomize(seed++);
    const AttentionShape shape{.query_offsets = offsets,
                               .key_offsets = {},
                               .num_heads = num_heads,
                               .head_dim = head_dim,
                               .scale = 1.0f / std::sqrt(static_cast<float>(head_dim))};
    cuda_device().model_operators().attention_cached(
        {shape,
         lengths,
         {keys.cuda(), values.cuda(), page_size, device_table.view(DType::i32, 3, pages_max)},
         query.cuda(),
         key.cuda(),
         value.cuda(),
         output.cuda()});
    cpu_device().model_operators().attention_cached(
        {shape,
         lengths,
         {keys.cpu(), values.cpu(), page_size, view_of(table.data(), 3, pages_max)},
         query.cpu(),
         key.cpu(),
         value.cpu(),
         output.cpu()});
    CHECK(keys.from_cuda() == keys.from_cpu());
    CHECK(values.from_cuda() == values.from_cpu());
    const double e = 0x1p-24;
    const double u = unit_roundoff(dtype);
    const double dimension = static_cast<double>(head_dim);
    const double score_error = (dimension + 4) * e * std::sqrt(dimension);
    const double tolerance = 2 * u + 4 * score_error + (32 + 2 * 150) * e;
    const std::vector<float> want = output.from_cpu();
    CHECK(error_in_tolerances(output.from_cuda(), want, std::vector<double>(want.size(), tolerance)) <= 1);
  }
}

}  // namespace

TEST_CASE("attention over a paged cache equals the CPU") {
  check_cached(DType::f32, 2, 32, 16, 0);
  check_cached(DType::f32, 1, 20, 5, 3);
  check_cached(half_type(), 2, 64, 16, 0);
  check_cached(DType::f16, 1, 64, 24, 2);
}

}  // namespace cbtm
