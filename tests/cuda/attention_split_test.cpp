// Decoding steps over a paged cache, cut along its length, against the CPU device: sequences of very different lengths
// in one call, any page size, 1 to 8 new tokens. The scores of both devices are off by at most score_error = (head_dim
// + 8) e Σ |scale q| |k| (the sum, the scale and the factor log2 e), which changes a weighted mean of values by at most
// 2 score_error max|value| on each side; a sum of n terms adds n e, and the output is rounded.

#include <algorithm>
#include <cmath>

#include "attention_operands.h"
#include "cbtm/device/model_operators.h"
#include "tests/cuda/half_precision.h"

namespace cbtm {
namespace {

struct Decoding {
  DType dtype;
  int64_t num_heads, head_dim, page_size;
  std::vector<int32_t> lengths;  ///< of the cache, new tokens included
  std::vector<int32_t> counts;   ///< new tokens
  int64_t slack = 0;             ///< columns more than needed, so that rows are not aligned if odd
  float outlier = 0;             ///< put into some queries, keys and values
};

void check_decoding(Decoding test) {
  test.dtype = computed_type(test.dtype);
  CAPTURE(dtype_name(test.dtype));
  CAPTURE(test.head_dim);
  CAPTURE(test.lengths.back());
  const int64_t width = test.num_heads * test.head_dim;
  const int64_t longest = *std::max_element(test.lengths.begin(), test.lengths.end());
  const int64_t pages_max = (longest + test.page_size - 1) / test.page_size;
  const auto sequences = static_cast<int64_t>(test.lengths.size());
  const int64_t pages = sequences * pages_max;
  Matrix keys(test.dtype, pages * test.page_size, width, width + test.slack, test.slack / 2);
  Matrix values(test.dtype, pages * test.page_size, width, width + test.slack, test.slack / 2);
  std::vector<int32_t> table(static_cast<size_t>(pages));
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(table.size() - 1 - i);
  for (size_t i = 0; i + 3 < table.size(); i += 2) std::swap(table[i], table[i + 3]);
  const DeviceBuffer device_table = cuda_device().allocate(pages * 4, "a test's block table");
  cuda_device().copy_to_device(device_table.data(), table.data(), pages * 4);

  std::vector<int32_t> offsets{0};
  for (const int32_t count : test.counts) offsets.push_back(offsets.back() + count);
  const int64_t rows = offsets.back();
  Matrix query(test.dtype, rows, width, 3 * width + test.slack, 0);
  Matrix key(test.dtype, rows, width, 3 * width + test.slack, width + test.slack / 2);
  Matrix value(test.dtype, rows, width, 3 * width + test.slack, 2 * width + test.slack / 2);
  Matrix output(test.dtype, rows, width, width + test.slack, 0);
  uint64_t seed = 1;
  for (Matrix* matrix : {&keys, &values, &query, &key, &value, &output}) matrix->randomize(seed++);
  if (test.outlier != 0) {
    for (int64_t row = 0; row < rows; ++row) query.at(row, row % width) = row % 2 == 0 ? test.outlier : -test.outlier;
    for (int64_t row = 0; row < pages * test.page_size; row += 37)
      keys.at(row, row % width) = values.at(row, (row + 1) % width) = test.outlier;
    for (Matrix* matrix : {&query, &keys, &values}) matrix->upload();
  }
  const AttentionShape shape{.query_offsets = offsets,
                             .key_offsets = {},
                             .num_heads = test.num_heads,
                             .head_dim = test.head_dim,
                             .scale = 1.0f / std::sqrt(static_cast<float>(test.head_dim))};
  const auto run_cuda = [&] {
    cuda_device().model_operators().attention_cached(
        {shape,
         test.lengths,
         {keys.cuda(), values.cuda(), test.page_size, device_table.view(DType::i32, sequences, pages_max)},
         query.cuda(),
         key.cuda(),
         value.cuda(),
         output.cuda()});
    return output.from_cuda();
  };
  const std::vector<float> got = run_cuda();
  CHECK(run_cuda() == got);
  cpu_device().model_operators().attention_cached(
      {shape,
       test.lengths,
       {keys.cpu(), values.cpu(), test.page_size, view_of(table.data(), sequences, pages_max)},
       query.cpu(),
       key.cpu(),
       value.cpu(),
       output.cpu()});
  bool outside_kept = true;
  CHECK(keys.from_cuda(&outside_kept) == keys.from_cpu());
  CHECK(values.from_cuda(&outside_kept) == values.from_cpu());
  CHECK(outside_kept);

  const double e = 0x1p-24;
  const bool prompts = *std::max_element(test.counts.begin(), test.counts.end()) > 8;
  const double largest = std::max(1.0, static_cast<double>(test.outlier));
  std::vector<double> tolerance;
  const std::vector<float> want = output.from_cpu();
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < width; ++column) {
      double size = 0;  // Σ |q|, at most: every |k| is at most `largest`
      for (int64_t c = 0; c < test.head_dim; ++c)
        size += std::abs(static_cast<double>(query.at(row, column / test.head_dim * test.head_dim + c)));
      const double score_error =
          (static_cast<double>(test.head_dim) + 8) * e * static_cast<double>(shape.scale) * size * largest;
      const double rounding =
          unit_roundoff(test.dtype) * std::abs(static_cast<double>(want[static_cast<size_t>(row * width + column)]));
      const double prompt = prompts ? unit_roundoff(test.dtype) * largest : 0;
      tolerance.push_back(2 * rounding + prompt +
                          largest * (4 * score_error + (static_cast<double>(longest) + 32) * e));
    }
  CHECK(error_in_tolerances(got, want, tolerance) <= 1);
}

}  // namespace

TEST_CASE("one token, around the borders of pages and pieces") {
  check_decoding({DType::bf16, 2, 64, 16, {1, 15, 16, 17, 63, 64, 65}, {1, 1, 1, 1, 1, 1, 1}});
  check_decoding({DType::f16, 1, 128, 24, {24, 127, 129, 131}, {1, 1, 1, 1}});
  check_decoding({DType::f32, 3, 80, 5, {6, 97}, {1, 1}});
}

TEST_CASE("one long sequence, and with short ones") {
  check_decoding({DType::bf16, 2, 64, 16, {900}, {1}});
  check_decoding({DType::f16, 2, 80, 32, {700, 1, 40, 333}, {1, 1, 1, 1}});
  check_decoding({DType::bf16, 1, 96, 7, {450, 33}, {1, 1}});
  check_decoding({DType::bf16, 2, 128, 64, {600}, {1}});
  check_decoding({DType::f32, 1, 64, 16, {500, 5}, {1, 1}});
}

TEST_CASE("several new tokens a sequence, some of none, and a prompt among them") {
  check_decoding({DType::bf16, 2, 64, 16, {300, 2, 90}, {2, 2, 1}});
  check_decoding({DType::f16, 1, 80, 16, {257, 70}, {4, 3}});
  check_decoding({DType::bf16, 1, 128, 16, {520, 8, 64}, {8, 8, 0}});
  check_decoding({DType::bf16, 1, 64, 16, {150, 130, 129}, {3, 40, 1}});
  check_decoding({DType::f32, 2, 32, 16, {129, 7}, {5, 7}});
}

TEST_CASE("any head size and alignment") {
  check_decoding({DType::f32, 2, 20, 16, {140, 3}, {1, 1}, 3});
  check_decoding({DType::bf16, 3, 12, 16, {140, 3}, {1, 2}, 1});
  check_decoding({DType::f16, 1, 33, 16, {70}, {1}, 2});
  check_decoding({DType::bf16, 1, 256, 16, {140, 9}, {1, 1}});
  check_decoding({DType::f16, 1, 200, 16, {70}, {3}, 1});
  check_decoding({DType::f32, 1, 250, 16, {70, 80}, {1, 1}});
  check_decoding({DType::f32, 1, 256, 16, {70}, {2}});
}

TEST_CASE("many heads, and outliers") {
  check_decoding({DType::bf16, 56, 128, 16, {70}, {1}});
  check_decoding({DType::f16, 32, 80, 16, {65, 3}, {1, 1}});
  check_decoding({DType::f32, 2, 64, 16, {200, 77}, {1, 1}, 0, 60});
  check_decoding({DType::bf16, 2, 64, 16, {200, 77}, {1, 2}, 0, 60});
}

}  // namespace cbtm
