#pragma once

// Products of tiles for the general attention kernels: operands of any floating dtype, any head_dim up to
// 32 * kChunks, any alignment; arithmetic in float32 on the ordinary cores.
//
// A block of 256 threads owns a tile of 64 x 64 scores. Thread (x, y) = (threadIdx % 16, threadIdx / 16) holds the
// scores of rows 4 y .. 4 y + 3 and columns x + 16 j, and of an output [64, head_dim] the same rows and, of each chunk
// of 32 columns, columns 2 x and 2 x + 1. Operands pass through shared memory in chunks of 32 columns, so that shared
// memory does not grow with head_dim; a warp reads 2 rows of the left operand (broadcast) and 16 of the right one.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "attention/attention_rows.cuh"

namespace cbtm::cuda::general {

constexpr int kTile = 64;  ///< queries, and keys, of a tile
constexpr int kThreads = 256;
constexpr int kChunk = 32;                     ///< columns of an operand staged at a time
constexpr int kChunkStride = kChunk + 4;       // 36 floats: eight rows of float4 touch all banks once
constexpr int kProbabilityStride = kTile + 4;  // rows 4 apart lie 16 banks apart

struct SharedTiles {
  float left[kTile][kChunkStride];
  float right[kTile][kChunkStride];
  float probabilities[kTile][kProbabilityStride];
};

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
__device__ __forceinline__ void store(float* out, float value) { *out = value; }
__device__ __forceinline__ void store(__nv_bfloat16* out, float value) { *out = __float2bfloat16_rn(value); }
__device__ __forceinline__ void store(__half* out, float value) { *out = __float2half_rn(value); }

/// Four elements by one access: 16 bytes of float32, 8 of the 16-bit types.
__device__ __forceinline__ float4 load4(const float* p) { return *reinterpret_cast<const float4*>(p); }
template <typename Element>
__device__ __forceinline__ float4 load4(const Element* p) {
  struct alignas(8) Four {
    Element element[4];
  };
  const Four four = *reinterpret_cast<const Four*>(p);
  return make_float4(to_float(four.element[0]), to_float(four.element[1]), to_float(four.element[2]),
                     to_float(four.element[3]));
}

/// destination[r][c] = rows[r][chunk * 32 + c], zero outside.
template <typename Element>
__device__ __forceinline__ void stage(float (*destination)[kChunkStride], const Rows<Element>& rows, int chunk,
                                      int head_dim, bool vectorised) {
#pragma unroll
  for (int pass = 0; pass < kTile * kChunk / 4 / kThreads; ++pass) {
    const int index = static_cast<int>(threadIdx.x) + pass * kThreads;
    const int row = index / (kChunk / 4);
    const int column = index % (kChunk / 4) * 4;
    const int left = head_dim - chunk * kChunk - column;  // columns that exist from here on
    float4 values = make_float4(0, 0, 0, 0);
    if (row < rows.count && left > 0) {
      const Element* source = rows.row(row) + chunk * kChunk + column;
      if (vectorised) {
        values = load4(source);
      } else {
        values.x = to_float(source[0]);
        if (left > 1) values.y = to_float(source[1]);
        if (left > 2) values.z = to_float(source[2]);
        if (left > 3) values.w = to_float(source[3]);
      }
    }
    *reinterpret_cast<float4*>(&destination[row][column]) = values;
  }
}

/// scores[i][j] = left row (4 y + i) . right row (x + 16 j).
template <typename Element>
__device__ __forceinline__ void score_product(float (&scores)[4][4], const Rows<Element>& left,
                                              const Rows<Element>& right, int head_dim, bool vectorised,
                                              SharedTiles& shared) {
  const int x = static_cast<int>(threadIdx.x) % 16;
  const int y = static_cast<int>(threadIdx.x) / 16;
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) scores[i][j] = 0;
  for (int chunk = 0; chunk * kChunk < head_dim; ++chunk) {
    __syncthreads();  // what was staged before has been used
    stage(shared.left, left, chunk, head_dim, vectorised);
    stage(shared.right, right, chunk, head_dim, vectorised);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kChunk; k += 4) {
      float4 a[4], b[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = *reinterpret_cast<const float4*>(&shared.left[4 * y + i][k]);
#pragma unroll
      for (int j = 0; j < 4; ++j) b[j] = *reinterpret_cast<const float4*>(&shared.right[x + 16 * j][k]);
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          scores[i][j] += a[i].x * b[j].x;
          scores[i][j] += a[i].y * b[j].y;
          scores[i][j] += a[i].z * b[j].z;
          scores[i][j] += a[i].w * b[j].w;
        }
    }
  }
}

/// Puts what a thread holds of a tile of probabilities (or score gradients) where weighted_sum finds it.
__device__ __forceinline__ void share(const float (&values)[4][4], SharedTiles& shared) {
  const int x = static_cast<int>(threadIdx.x) % 16;
  const int y = static_cast<int>(threadIdx.x) / 16;
  __syncthreads();  // the tile shared before has been used
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) shared.probabilities[4 * y + i][x + 16 * j] = values[i][j];
}

/// sums[i][2 c + e] += Σ_k shared tile [4 y + i][k] * right row k [32 c + 2 x + e].
template <int kChunks, typename Element>
__device__ __forceinline__ void weighted_sum(float (&sums)[4][2 * kChunks], const Rows<Element>& right, int head_dim,
                                             bool vectorised, SharedTiles& shared) {
  const int x = static_cast<int>(threadIdx.x) % 16;
  const int y = static_cast<int>(threadIdx.x) / 16;
#pragma unroll
  for (int chunk = 0; chunk < kChunks; ++chunk) {
    if (chunk * kChunk >= head_dim) break;
    __syncthreads();
    stage(shared.right, right, chunk, head_dim, vectorised);
    __syncthreads();
#pragma unroll 4
    for (int k = 0; k < kTile; k += 4) {
      float4 a[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = *reinterpret_cast<const float4*>(&shared.probabilities[4 * y + i][k]);
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        const float2 b = *reinterpret_cast<const float2*>(&shared.right[k + step][2 * x]);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float weight = step == 0 ? a[i].x : step == 1 ? a[i].y : step == 2 ? a[i].z : a[i].w;
          sums[i][2 * chunk] += weight * b.x;
          sums[i][2 * chunk + 1] += weight * b.y;
        }
      }
    }
  }
}

/// out row (4 y + i) = factor[i] * sums[i], rows below `count`.
template <int kChunks, typename Element>
__device__ __forceinline__ void write_rows(const AttentionOperand& out, int64_t row, int count, int column,
                                           const float (&sums)[4][2 * kChunks], const float (&factor)[4],
                                           int head_dim) {
  const int x = static_cast<int>(threadIdx.x) % 16;
  const int y = static_cast<int>(threadIdx.x) / 16;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (4 * y + i >= count) continue;
    Element* destination = static_cast<Element*>(const_cast<void*>(out.data)) + (row + 4 * y + i) * out.stride + column;
#pragma unroll
    for (int chunk = 0; chunk < kChunks; ++chunk)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int c = chunk * kChunk + 2 * x + e;
        if (c < head_dim) store(destination + c, factor[i] * sums[i][2 * chunk + e]);
      }
  }
}

/// Calls function.operator()<Element, kChunks>() for the dtype and the least head size compiled that holds head_dim.
template <typename Function>
void dispatch(DType dtype, int64_t head_dim, const Function& function) {
  const auto with_element = [&]<typename Element>() {
    if (head_dim <= 64) return function.template operator()<Element, 2>();
    if (head_dim <= 128) return function.template operator()<Element, 4>();
    return function.template operator()<Element, 8>();
  };
  if (dtype == DType::f32) return with_element.template operator()<float>();
  if (dtype == DType::bf16) return with_element.template operator()<__nv_bfloat16>();
  return with_element.template operator()<__half>();
}

}  // namespace cbtm::cuda::general
