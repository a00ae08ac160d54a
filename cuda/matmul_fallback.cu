// Products that cuBLASLt has no algorithm for: its epilogues apart, and, if need be, the product itself.

#include <fmt/format.h>

#include <mutex>
#include <set>
#include <string>

#include "activation.h"
#include "cbtm/base/progress.h"
#include "dispatch.h"
#include "elements.cuh"
#include "matmul_fallback.h"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

constexpr int kTile = 64;      ///< rows and columns of c a block
constexpr int kDepth = 16;     ///< of k at a time
constexpr int kThreads = 256;  ///< 16 x 16, 4 x 4 elements each
constexpr int kPart = 4;

struct Params {
  const void* a;
  const void* b;
  void* c;
  int64_t m, n, k;
  int64_t a_row, a_column, b_row, b_column, c_stride;  ///< strides of op(a), op(b)
  int64_t a_batch, b_batch, c_batch;
  float alpha, beta;
};

// c = alpha * op(a) op(b) + beta * c
//
// mapping   a block 64 x 64 of c, a thread every 16th row and column of it; both operands pass through shared memory,
//           16 of k at a time.
// bytes     (m * k * n / 64 + n * k * m / 64) * element read, from the cache mostly; m * n written.
// numerics  float32, in the order of k, one rounding at the end.
template <typename In, typename Out>
__global__ void __launch_bounds__(kThreads) plain_product_kernel(const Params p) {
  __shared__ float left[kDepth][kTile + 1], right[kDepth][kTile + 1];
  const int x = static_cast<int>(threadIdx.x) % 16, y = static_cast<int>(threadIdx.x) / 16;
  const int64_t first_row = int64_t{blockIdx.y} * kTile, first_column = int64_t{blockIdx.x} * kTile;
  const In* a = static_cast<const In*>(p.a) + blockIdx.z * p.a_batch;
  const In* b = static_cast<const In*>(p.b) + blockIdx.z * p.b_batch;
  float sums[kPart][kPart] = {};
  for (int64_t first = 0; first < p.k; first += kDepth) {
    for (int place = static_cast<int>(threadIdx.x); place < kTile * kDepth; place += kThreads) {
      const int depth = place % kDepth, at = place / kDepth;
      const int64_t l = first + depth, row = first_row + at, column = first_column + at;
      left[depth][at] = row < p.m && l < p.k ? widened(a[row * p.a_row + l * p.a_column]) : 0.0f;
      right[depth][at] = column < p.n && l < p.k ? widened(b[l * p.b_row + column * p.b_column]) : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int depth = 0; depth < kDepth; ++depth)
#pragma unroll
      for (int i = 0; i < kPart; ++i)
#pragma unroll
        for (int j = 0; j < kPart; ++j)
          sums[i][j] = fmaf(left[depth][y + 16 * i], right[depth][x + 16 * j], sums[i][j]);
    __syncthreads();
  }
  Out* c = static_cast<Out*>(p.c) + blockIdx.z * p.c_batch;
#pragma unroll
  for (int i = 0; i < kPart; ++i)
#pragma unroll
    for (int j = 0; j < kPart; ++j) {
      const int64_t row = first_row + y + 16 * i, column = first_column + x + 16 * j;
      if (row >= p.m || column >= p.n) continue;
      Out& place = c[row * p.c_stride + column];
      float value = p.alpha * sums[i][j];
      if (p.beta != 0) value = fmaf(p.beta, widened(place), value);
      place = narrowed<Out>(value);
    }
}

/// What the epilogue does, for people; empty if there is none.
std::string epilogue_name(const MatmulArguments& m) {
  if (m.a_sums) return "bias gradient";
  if (m.relu_derivative_mask) return "ReLU's derivative";
  if (!m.bias && !m.relu) return {};
  return fmt::format("{}{}{}{}", m.bias ? "bias" : "", m.bias && m.relu ? " and " : "", m.relu ? "ReLU" : "",
                     m.relu_mask ? " with its mask" : "");
}

}  // namespace

MatmulArguments without_epilogue(const MatmulArguments& arguments) {
  MatmulArguments product = arguments;
  product.bias = {};
  product.relu = false;
  product.relu_mask = {};
  product.relu_derivative_mask = {};
  product.a_sums = {};
  return product;
}

void apply_epilogue(Context& context, const MatmulArguments& m) {
  if (m.bias || m.relu) add_bias(context, m.c, m.bias, m.relu);
  if (m.relu_mask) relu_mask(context, m.c, m.relu_mask);
  if (m.relu_derivative_mask) apply_relu_mask(context, m.relu_derivative_mask, m.c);
  if (!m.a_sums) return;
  CBTM_ASSERT(m.transpose_a, "sums are of a matrix's columns");
  column_sums(context, m.a, m.a_sums);
}

void plain_product(Context& context, const MatmulArguments& m) {
  const int64_t rows = m.c.rows, columns = m.c.columns;
  const Params params{.a = m.a.data,
                      .b = m.b.data,
                      .c = m.c.data,
                      .m = rows,
                      .n = columns,
                      .k = m.transpose_a ? m.a.rows : m.a.columns,
                      .a_row = m.transpose_a ? 1 : m.a.row_stride,
                      .a_column = m.transpose_a ? m.a.row_stride : 1,
                      .b_row = m.transpose_b ? 1 : m.b.row_stride,
                      .b_column = m.transpose_b ? m.b.row_stride : 1,
                      .c_stride = m.c.row_stride,
                      .a_batch = m.a_batch_stride,
                      .b_batch = m.b_batch_stride,
                      .c_batch = m.c_batch_stride,
                      .alpha = m.alpha,
                      .beta = m.beta};
  const int64_t row_blocks = ceil_divide(rows, kTile);
  CBTM_ASSERT(row_blocks < 65'536, "blocks of rows are a grid's second extent");
  const dim3 grid(static_cast<unsigned>(ceil_divide(columns, kTile)), static_cast<unsigned>(row_blocks),
                  static_cast<unsigned>(m.batch_count));
  dispatch_floating(m.a.dtype, [&]<typename In>() {
    if (m.c.dtype == m.a.dtype)
      plain_product_kernel<In, In><<<grid, kThreads, 0, context.stream>>>(params);
    else
      plain_product_kernel<In, float><<<grid, kThreads, 0, context.stream>>>(params);
  });
  CBTM_CUDA_LAUNCHED("plain_product");
}

void say_missing(const MatmulArguments& m) {
  const std::string epilogue = epilogue_name(m);
  const std::string types = fmt::format("{} to {}", dtype_name(m.a.dtype), dtype_name(m.c.dtype));
  static std::mutex mutex;
  static std::set<std::string> said;
  const std::lock_guard lock(mutex);
  if (!said.insert(types + epilogue).second) return;
  if (epilogue.empty())
    warn(
        fmt::format("cuBLASLt has no product from {} here: a kernel of cbtm makes it, which is much slower; update "
                    "cuBLASLt or the driver",
                    types));
  else
    warn(fmt::format("cuBLASLt has no product from {} with {} here: that is a step of its own{}", types, epilogue,
                     m.c.dtype == DType::f32 ? "" : ", which rounds once more"));
}

}  // namespace cbtm::cuda
