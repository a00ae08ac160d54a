#include "cpu/matrix_product.h"

#include <cstdlib>
#include <memory>
#include <new>

#include "cbtm/base/threads.h"

namespace cbtm::cpu {
namespace {

constexpr double kMultiplyAddsPerNanosecond = 60;
/// Rows or columns of C that a thread's share starts at a multiple of: whole tiles of every instruction set.
constexpr int64_t kGrain = 16;
/// Rows a thread should have at least, for packing all of B on each thread to cost little beside the products.
constexpr int64_t kRowsOfThread = 128;

struct Free {
  void operator()(float* data) const { std::free(data); }
};

/// Scratch of the calling thread, kept until it ends.
float* product_scratch() {
  thread_local std::unique_ptr<float, Free> scratch;
  if (scratch == nullptr) scratch.reset(static_cast<float*>(std::aligned_alloc(64, kProductScratch * sizeof(float))));
  if (scratch == nullptr) throw std::bad_alloc();
  return scratch.get();
}

}  // namespace

void multiply_matrices(const Kernels& kernels, const MatrixProduct& p) {
  if (p.m == 0 || p.n == 0) return;
  const int64_t a_row_stride = p.a_transposed ? 1 : p.a_stride;
  const int64_t a_column_stride = p.a_transposed ? p.a_stride : 1;
  const int64_t b_row_stride = p.b_transposed ? 1 : p.b_stride;
  const int64_t b_column_stride = p.b_transposed ? p.b_stride : 1;
  const auto range = [&](int64_t row, int64_t rows, int64_t column, int64_t columns) {
    kernels.block_product({rows, columns, p.k, p.a + row * a_row_stride, a_row_stride, a_column_stride,
                           p.b + column * b_column_stride, b_row_stride, b_column_stride,
                           p.c + row * p.c_stride + column, p.c_stride, p.accumulate, product_scratch()});
  };
  // By columns no thread packs what another packs too; by rows what follows finds its rows in the thread's own cache.
  const bool by_columns = p.m < thread_count() * kRowsOfThread && p.n >= thread_count() * kGrain;
  const int64_t size = by_columns ? p.n : p.m;
  const int64_t grains = (size + kGrain - 1) / kGrain;
  const double grain_cost = static_cast<double>(kGrain * (by_columns ? p.m : p.n) * p.k) / kMultiplyAddsPerNanosecond;
  parallel_ranges(grains, grain_cost, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kGrain;
    const int64_t count = std::min(end * kGrain, size) - first;
    if (by_columns) {
      range(0, p.m, first, count);
    } else {
      range(first, count, 0, p.n);
    }
  });
}

}  // namespace cbtm::cpu
