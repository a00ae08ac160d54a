// Adds the parts of a weight gradient whose k was cut, so that few tiles of c keep all multiprocessors at work.

#include <algorithm>

#include "cbtm/base/ceil_divide.h"
#include "hopper/product_params.h"
#include "runtime/check.h"

namespace cbtm::cuda::hopper {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerMultiprocessor = 8;

// c[r, j] = alpha Σ_part values[part][r, j] + beta c[r, j]; a_sums[r] = alpha Σ_part sums[part][r]
//
// mapping   a thread takes four columns of a row, grid-stride; a row's last ones may be fewer.
// bytes     parts * m * n * 4 read, from L2 mostly; c read and written once.
// numerics  float32, in the order of the parts.
__global__ void __launch_bounds__(kThreads) add_product_parts_kernel(const ProductParts p) {
  const int64_t groups = p.stride / 4, count = p.m * groups, step = int64_t{gridDim.x} * kThreads;
  const int64_t first = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  for (int64_t at = first; at < count; at += step) {
    const int64_t row = at / groups, column = at % groups * 4;
    float4 sum{};
#pragma unroll 4
    for (int part = 0; part < p.parts; ++part) {
      const float4 value = reinterpret_cast<const float4*>(p.values)[part * count + at];
      sum.x += value.x, sum.y += value.y, sum.z += value.z, sum.w += value.w;
    }
    float* c = p.c + row * p.c_stride + column;
    const float values[4] = {p.alpha * sum.x, p.alpha * sum.y, p.alpha * sum.z, p.alpha * sum.w};
    if (column + 4 <= p.n) {
      float4 before{};
      if (p.beta != 0) before = *reinterpret_cast<const float4*>(c);
      *reinterpret_cast<float4*>(c) = {fmaf(p.beta, before.x, values[0]), fmaf(p.beta, before.y, values[1]),
                                       fmaf(p.beta, before.z, values[2]), fmaf(p.beta, before.w, values[3])};
      continue;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (column + i < p.n) c[i] = p.beta != 0 ? fmaf(p.beta, c[i], values[i]) : values[i];
  }
  if (p.sums == nullptr) return;
  for (int64_t row = first; row < p.m; row += step) {
    float sum = 0;
    for (int part = 0; part < p.parts; ++part) sum += p.sums[int64_t{part} * p.m + row];
    p.a_sums[row] = p.alpha * sum;
  }
}

}  // namespace

void add_product_parts(const ProductParts& parts, int multiprocessors, cudaStream_t stream) {
  const int64_t blocks = std::min<int64_t>(ceil_divide(parts.m * (parts.stride / 4), kThreads),
                                           int64_t{multiprocessors} * kBlocksPerMultiprocessor);
  add_product_parts_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(parts);
  CBTM_CUDA_LAUNCHED("add_product_parts");
}

}  // namespace cbtm::cuda::hopper
