#pragma once

// What product_kernel does with a warpgroup's sums, and how they get to memory. wgmma gives a lane pairs of
// neighbouring columns; four lanes exchange them so that each one has 16 bytes of one row, and a row's 64 bytes leave
// as whole sectors.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>

#include "elements.cuh"
#include "hopper/product_params.h"

namespace cbtm::cuda::hopper {

inline constexpr int kProductSums = kProductColumns / 2;  ///< a thread's, of 64 rows

/// Of a thread: its first row of c (the other one is 8 further), the tile's first column, its lane among four.
struct SumsPlace {
  int row, first_column, lane;
};

template <typename Element>
struct ElementPair;
template <>
struct ElementPair<bf16> {
  static __device__ __forceinline__ uint32_t of(float x, float y) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
    uint32_t word;
    memcpy(&word, &pair, sizeof(word));
    return word;
  }
};
template <>
struct ElementPair<f16> {
  static __device__ __forceinline__ uint32_t of(float x, float y) {
    const __half2 pair = __floats2half2_rn(x, y);
    uint32_t word;
    memcpy(&word, &pair, sizeof(word));
    return word;
  }
};

/// The elements at `column` and after it, 4-byte aligned; 0 beyond the row's end.
template <typename Element>
__device__ __forceinline__ float2 load_pair(const Element* row, int column, int columns) {
  uint32_t word = 0;
  if (column + 1 < columns)
    word = *reinterpret_cast<const uint32_t*>(row + column);
  else if (column < columns)
    word = row[column].bits;
  return {widened(Element{static_cast<uint16_t>(word)}), widened(Element{static_cast<uint16_t>(word >> 16)})};
}

/// words[j] of lane i becomes words[i] of lane j, among four neighbouring lanes.
__device__ __forceinline__ void exchange(uint32_t (&words)[4], int lane) {
  const bool odd = lane % 2 != 0, upper = lane / 2 != 0;
  uint32_t of_two[2][2];
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
    const uint32_t kept = odd ? words[2 * pair + 1] : words[2 * pair];
    const uint32_t got = __shfl_xor_sync(0xffffffff, odd ? words[2 * pair] : words[2 * pair + 1], 1);
    of_two[pair][0] = odd ? got : kept;
    of_two[pair][1] = odd ? kept : got;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t kept = upper ? of_two[1][i] : of_two[0][i];
    const uint32_t got = __shfl_xor_sync(0xffffffff, upper ? of_two[0][i] : of_two[1][i], 2);
    words[i] = upper ? got : kept;
    words[2 + i] = upper ? kept : got;
  }
}

/// Bit i: element i of eight, none of them negative, is not zero.
__device__ __forceinline__ uint32_t positive_bits(const uint32_t (&words)[4]) {
  uint32_t bits = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i)
    bits |= ((words[i] & 0xffffu) != 0 ? 1u : 0u) << (2 * i) | (words[i] >> 16 != 0 ? 2u : 0u) << (2 * i);
  return bits;
}
/// Zero where its bit is 0.
__device__ __forceinline__ void keep_bits(uint32_t (&words)[4], uint32_t bits) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
    words[i] &= ((bits >> (2 * i) & 1u) != 0 ? 0xffffu : 0u) | ((bits >> (2 * i) & 2u) != 0 ? 0xffff0000u : 0u);
}

/// A lane's eight elements from `column` on, as far as the row goes.
template <typename Element>
__device__ __forceinline__ void store_eight(Element* row, int column, int columns, const uint32_t (&words)[4]) {
  if (column + 8 <= columns) {
    *reinterpret_cast<uint4*>(row + column) = make_uint4(words[0], words[1], words[2], words[3]);
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i)
    if (column + i < columns) row[column + i] = Element{static_cast<uint16_t>(words[i / 2] >> (16 * (i % 2)))};
}

// c = relu(alpha sums + beta c + bias), rounded once to 16 bits; then 0 where the derivative's mask is, or the mask of
// what is positive: a lane's eight columns are one byte of it.
template <typename Element>
__device__ __forceinline__ void finish_narrow(const ProductParams& p, const float (&sums)[kProductSums], SumsPlace at) {
  auto* c = static_cast<Element*>(p.c);
  uint32_t mask_words[2] = {};
#pragma unroll
  for (int group = 0; group < kProductColumns / 32; ++group) {
    const int first = at.first_column + 32 * group;
    float2 bias[4] = {};
    if (p.bias != nullptr) {
#pragma unroll
      for (int j = 0; j < 4; ++j)
        bias[j] = load_pair(static_cast<const Element*>(p.bias), first + 8 * j + 2 * at.lane, p.n);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = at.row + 8 * half;
      Element* c_row = c + int64_t{row} * p.c_stride;
      uint32_t words[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float x = p.alpha * sums[4 * (4 * group + j) + 2 * half];
        float y = p.alpha * sums[4 * (4 * group + j) + 2 * half + 1];
        if (p.beta != 0 && row < p.m) {
          const float2 before = load_pair(c_row, first + 8 * j + 2 * at.lane, p.n);
          x = fmaf(p.beta, before.x, x), y = fmaf(p.beta, before.y, y);
        }
        x += bias[j].x, y += bias[j].y;
        if (p.relu) x = fmaxf(x, 0.0f), y = fmaxf(y, 0.0f);
        words[j] = ElementPair<Element>::of(x, y);
      }
      exchange(words, at.lane);
      const int column = first + 8 * at.lane;
      if (p.derivative_mask != nullptr && row < p.m && column < p.n)
        keep_bits(words, p.derivative_mask[int64_t{row} * p.derivative_mask_stride + column / 8]);
      if (row < p.m) store_eight(c_row, column, p.n, words);
      if (p.mask == nullptr) continue;
      // The four lanes' bytes are a word; lane i keeps that of the i-th of four groups.
      uint32_t word = positive_bits(words) << (8 * at.lane);
      word |= __shfl_xor_sync(0xffffffff, word, 1);
      word |= __shfl_xor_sync(0xffffffff, word, 2);
      if (group % 4 == at.lane) mask_words[half] = word;
      const int byte = (at.first_column + 128 * (group / 4)) / 8 + 4 * at.lane;
      if (group % 4 == 3 && row < p.m && byte < (p.n + 127) / 128 * 16)
        *reinterpret_cast<uint32_t*>(p.mask + int64_t{row} * p.mask_stride + byte) = mask_words[half];
    }
  }
}

// c = alpha sums + beta c, float32. Two lanes exchange pairs, so that each has four columns. What is read is asked for
// eight times 16 bytes ahead.
__device__ __forceinline__ void finish_wide(const ProductParams& p, const float (&sums)[kProductSums], SumsPlace at) {
  auto* c = static_cast<float*>(p.c);
  const bool odd = at.lane % 2 != 0;
  constexpr int kAhead = 4;  // of 16 columns
#pragma unroll
  for (int block = 0; block < kProductColumns / 16 / kAhead; ++block) {
    float4 before[kAhead][2];
    const auto place = [&](int i, int half, auto use) {
      const int row = at.row + 8 * half;
      const int column = at.first_column + 16 * (kAhead * block + i) + (odd ? 8 : 0) + at.lane / 2 * 4;
      if (row < p.m && column < p.n) use(c + int64_t{row} * p.c_stride + column, p.n - column);
    };
    if (p.beta != 0) {
#pragma unroll
      for (int i = 0; i < kAhead; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          before[i][half] = {};
          place(i, half, [&](const float* from, int available) {
            if (available >= 4) {
              before[i][half] = *reinterpret_cast<const float4*>(from);
            } else {
              before[i][half].x = from[0];
              if (available > 1) before[i][half].y = from[1];
              if (available > 2) before[i][half].z = from[2];
            }
          });
        }
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int left = 8 * (kAhead * block + i) + 2 * half, right = left + 4;
        const float x = __shfl_xor_sync(0xffffffff, odd ? sums[left] : sums[right], 1);
        const float y = __shfl_xor_sync(0xffffffff, odd ? sums[left + 1] : sums[right + 1], 1);
        float4 value = odd ? float4{x, y, sums[right], sums[right + 1]} : float4{sums[left], sums[left + 1], x, y};
        value.x *= p.alpha, value.y *= p.alpha, value.z *= p.alpha, value.w *= p.alpha;
        if (p.beta != 0) {
          value.x = fmaf(p.beta, before[i][half].x, value.x), value.y = fmaf(p.beta, before[i][half].y, value.y);
          value.z = fmaf(p.beta, before[i][half].z, value.z), value.w = fmaf(p.beta, before[i][half].w, value.w);
        }
        place(i, half, [&](float* to, int available) {
          if (available >= 4) {
            *reinterpret_cast<float4*>(to) = value;
          } else {
            to[0] = value.x;
            if (available > 1) to[1] = value.y;
            if (available > 2) to[2] = value.z;
          }
        });
      }
  }
}

}  // namespace cbtm::cuda::hopper
