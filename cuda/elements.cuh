#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>

#include "cbtm/base/half_types.h"

namespace cbtm::cuda {

// Elements of tensors on the device: arithmetic is float32, memory holds float, bf16 or f16. Narrowing rounds to
// nearest, ties to even, as on the host.

__device__ inline float widened(float value) { return value; }
__device__ inline float widened(bf16 value) { return __uint_as_float(static_cast<uint32_t>(value.bits) << 16); }
__device__ inline float widened(int8_t value) { return static_cast<float>(value); }
__device__ inline float widened(f16 value) { return __half2float(__ushort_as_half(value.bits)); }

template <typename Element>
__device__ Element narrowed(float value);
template <>
__device__ inline float narrowed<float>(float value) {
  return value;
}
template <>
__device__ inline bf16 narrowed<bf16>(float value) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
}
template <>
__device__ inline f16 narrowed<f16>(float value) {
  return {__half_as_ushort(__float2half_rn(value))};
}

/// The type that moves kBytes in one access.
template <int kBytes>
struct AccessWord;
template <>
struct AccessWord<16> {
  using Type = uint4;
};
template <>
struct AccessWord<8> {
  using Type = uint2;
};
template <>
struct AccessWord<4> {
  using Type = uint32_t;
};
template <>
struct AccessWord<2> {
  using Type = uint16_t;
};

/// kLength neighbouring elements as they lie in memory: 16-bit ones take half the registers of their float32 values.
template <typename Element, int kLength>
struct Packed {
  using Word = typename AccessWord<static_cast<int>(sizeof(Element)) * kLength>::Type;
  Word word;

  // 16-bit elements are taken out of, and put into, words of 32 bits by hand: through a copy to an array of elements
  // the compiler has cut accesses of 16 bytes into some of 8 and of 4.
  static constexpr bool kPairs = sizeof(Element) == 2 && kLength % 2 == 0;

  __device__ void unpack(float (&values)[kLength]) const {
    if constexpr (kPairs) {
      const Word whole = word;
      uint32_t pairs[kLength / 2];
      memcpy(pairs, &whole, sizeof(whole));
#pragma unroll
      for (int i = 0; i < kLength / 2; ++i) {
        values[2 * i] = widened(Element{static_cast<uint16_t>(pairs[i])});
        values[2 * i + 1] = widened(Element{static_cast<uint16_t>(pairs[i] >> 16)});
      }
    } else {
      Element elements[kLength];
      memcpy(elements, &word, sizeof(word));
#pragma unroll
      for (int i = 0; i < kLength; ++i) values[i] = widened(elements[i]);
    }
  }
  __device__ static Packed of(const float (&values)[kLength]) {
    Packed packed;
    if constexpr (kPairs) {
      uint32_t pairs[kLength / 2];
#pragma unroll
      for (int i = 0; i < kLength / 2; ++i)
        pairs[i] = uint32_t{narrowed<Element>(values[2 * i]).bits} | uint32_t{narrowed<Element>(values[2 * i + 1]).bits}
                                                                         << 16;
      memcpy(&packed.word, pairs, sizeof(packed.word));
    } else {
      Element elements[kLength];
#pragma unroll
      for (int i = 0; i < kLength; ++i) elements[i] = narrowed<Element>(values[i]);
      memcpy(&packed.word, elements, sizeof(packed.word));
    }
    return packed;
  }
};

// Rows are whole where they start at multiples of an access and are a multiple of it long, as those of every real model
// are: then all of an access exists, or nothing, and kernels compiled with kWhole have no accesses by element, which
// would be most of their code.

/// Elements at `source`; `available` of them exist, and the rest are zero. One access where all exist and `aligned`,
/// that is where `source` is a multiple of the access; else, as in a row's tail, element by element.
template <typename Element, int kLength, bool kWhole = false>
__device__ Packed<Element, kLength> load_packed(const Element* source, int available, bool aligned) {
  using Word = typename Packed<Element, kLength>::Word;
  if constexpr (kWhole) return {available > 0 ? *reinterpret_cast<const Word*>(source) : Word{}};
  if (aligned && available >= kLength) return {*reinterpret_cast<const Word*>(source)};
  Element elements[kLength] = {};
#pragma unroll
  for (int i = 0; i < kLength; ++i)
    if (i < available) elements[i] = source[i];
  Packed<Element, kLength> packed;
  memcpy(&packed.word, elements, sizeof(Word));
  return packed;
}

/// As load_packed; `target` lies in global memory. (A plain assignment of a uint4 does not always become one access.)
template <typename Element, int kLength, bool kWhole = false>
__device__ void store_packed(Element* target, int available, bool aligned, const float (&values)[kLength]) {
  using Word = typename Packed<Element, kLength>::Word;
  if (kWhole ? available > 0 : aligned && available >= kLength) {
    __stwb(reinterpret_cast<Word*>(target), Packed<Element, kLength>::of(values).word);
    return;
  }
  if constexpr (!kWhole) {
#pragma unroll
    for (int i = 0; i < kLength; ++i)
      if (i < available) target[i] = narrowed<Element>(values[i]);
  }
}

}  // namespace cbtm::cuda
