// The matrix product behind the linear layers, against plain loops in float64: sizes around every tile, panel and
// block, all four orders of operands, rows longer than the matrix (what lies between must stay), and any number of
// threads.

#include <cmath>

#include "cbtm/base/threads.h"
#include "cpu/matrix_product.h"
#include "tests/device/operands.h"

namespace cbtm {
namespace {

struct Sizes {
  int64_t m, n, k;
};

void check_product(const Sizes& sizes, bool a_transposed, bool b_transposed, bool accumulate) {
  const auto [m, n, k] = sizes;
  CAPTURE(m);
  CAPTURE(n);
  CAPTURE(k);
  CAPTURE(a_transposed);
  CAPTURE(b_transposed);
  CAPTURE(accumulate);
  constexpr int64_t kGap = 3;  // values between the rows
  const int64_t a_stride = (a_transposed ? m : k) + kGap, b_stride = (b_transposed ? k : n) + kGap, c_stride = n + kGap;
  const std::vector<float> a = random_values((a_transposed ? k : m) * a_stride + 1, 1);
  const std::vector<float> b = random_values((b_transposed ? n : k) * b_stride + 1, 2);
  const std::vector<float> before = random_values(m * c_stride, 3);
  std::vector<float> c = before;
  const cpu::MatrixProduct product{
      m, n, k, a.data(), a_stride, a_transposed, b.data(), b_stride, b_transposed, c.data(), c_stride, accumulate};
  cpu::multiply_matrices(cpu::kernels(), product);
  int64_t wrong = 0, touched = 0;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double want = accumulate ? before[static_cast<size_t>(i * c_stride + j)] : 0;
      double size = std::abs(want);
      for (int64_t l = 0; l < k; ++l) {
        const double term =
            static_cast<double>(a[static_cast<size_t>(a_transposed ? l * a_stride + i : i * a_stride + l)]) *
            static_cast<double>(b[static_cast<size_t>(b_transposed ? j * b_stride + l : l * b_stride + j)]);
        want += term;
        size += std::abs(term);
      }
      // A sum of k terms in any order: (k + 1) roundings of the terms' sizes at most.
      const double tolerance = static_cast<double>(k + 1) * 0x1p-24 * size;
      wrong += !(std::abs(static_cast<double>(c[static_cast<size_t>(i * c_stride + j)]) - want) <= tolerance);
    }
    for (int64_t j = n; j < c_stride; ++j) {
      const auto at = static_cast<size_t>(i * c_stride + j);
      touched += c[at] != before[at];
    }
  }
  CHECK(wrong == 0);
  CHECK(touched == 0);
}

TEST_CASE("products of any size and order of operands") {
  const std::vector<Sizes> sizes = {{1, 1, 1},   {2, 3, 5},      {7, 15, 2},   {8, 16, 16},   {9, 17, 31},
                                    {33, 47, 7}, {64, 64, 64},   {65, 49, 33}, {130, 63, 65}, {71, 129, 257},
                                    {5, 481, 3}, {17, 500, 513}, {300, 4, 9},  {257, 97, 1},  {3, 5, 0}};
  for (const Sizes& one : sizes)
    for (const bool a_transposed : {false, true})
      for (const bool b_transposed : {false, true})
        for (const bool accumulate : {false, true}) check_product(one, a_transposed, b_transposed, accumulate);
}

TEST_CASE("a product has the same bits whatever the number of threads") {
  const int threads_before = thread_count();
  for (const Sizes& sizes : {Sizes{515, 70, 300}, Sizes{100, 700, 300}}) {
    const auto [m, n, k] = sizes;
    const std::vector<float> a = random_values(m * k, 1), b = random_values(n * k, 2);
    std::vector<std::vector<float>> results;
    for (const int threads : {1, 2, 3, 5}) {
      set_thread_count(threads);
      results.emplace_back(static_cast<size_t>(m * n));
      cpu::multiply_matrices(cpu::kernels(),
                             {m, n, k, a.data(), k, false, b.data(), k, true, results.back().data(), n, false});
    }
    for (const std::vector<float>& result : results) CHECK(result == results.front());
  }
  set_thread_count(threads_before);
}

}  // namespace
}  // namespace cbtm
