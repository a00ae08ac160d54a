#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cbtm/base/half_types.h"

namespace cbtm::cuda {

// Small integers as pairs of bf16 or f16, the operands of tensor cores: put together from bits, several at a time,
// where conversions one by one would take the time that reading them does.

/// Both numbers of a pair, minus `subtrahend`.
template <typename Element>
__device__ uint32_t pair_difference(uint32_t pair, float subtrahend) {
  if constexpr (std::is_same_v<Element, bf16>) {
    __nv_bfloat162 value;
    memcpy(&value, &pair, sizeof pair);
    value = __hsub2(value, __float2bfloat162_rn(subtrahend));
    memcpy(&pair, &value, sizeof pair);
  } else {
    __half2 value;
    memcpy(&value, &pair, sizeof pair);
    value = __hsub2(value, __float2half2_rn(subtrahend));
    memcpy(&pair, &value, sizeof pair);
  }
  return pair;
}

/// Four int4 weights, whose codes are the low halves of the bytes of `codes`, as two pairs, exactly. The bf16 of bits
/// 0x4300 + code is 128 + code, the float16 of bits 0x6400 + code 1024 + code.
template <typename Element>
__device__ void widen_int4(uint32_t codes, uint32_t (&pairs)[2]) {
  constexpr bool kBfloat = std::is_same_v<Element, bf16>;
#pragma unroll
  for (int i = 0; i < 2; ++i)
    pairs[i] =
        pair_difference<Element>(__byte_perm(codes, kBfloat ? 0x43434343u : 0x64646464u, i == 0 ? 0x4140u : 0x4342u),
                                 kBfloat ? 128 + 8 : 1024 + 8);
}

/// Four int8 weights as two pairs, exactly. bf16 goes by way of the float of bits 0x4b000000 + code, 2^23 + code: its
/// upper half is the integer's bf16.
template <typename Element>
__device__ void widen_int8(uint32_t weights, uint32_t (&pairs)[2]) {
  const uint32_t codes = weights ^ 0x80808080u;  // weight + 128
#pragma unroll
  for (int i = 0; i < 2; ++i)
    if constexpr (std::is_same_v<Element, bf16>) {
      float values[2];
#pragma unroll
      for (int k = 0; k < 2; ++k)
        values[k] = __uint_as_float(__byte_perm(codes, 0x4b000000u, 0x7650u + static_cast<unsigned>(2 * i + k))) -
                    (0x1p23f + 128);
      pairs[i] = __byte_perm(__float_as_uint(values[0]), __float_as_uint(values[1]), 0x7632u);
    } else {
      pairs[i] = pair_difference<Element>(__byte_perm(codes, 0x64646464u, i == 0 ? 0x4140u : 0x4342u), 1024 + 128);
    }
}

}  // namespace cbtm::cuda
