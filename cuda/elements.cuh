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

  __device__ void unpack(float (&values)[kLength]) const {
    Element elements[kLength];
    memcpy(elements, &word, sizeof(word));
#pragma unroll
    for (int i = 0; i < kLength; ++i) values[i] = widened(elements[i]);
  }
  __device__ static Packed of(const float (&values)[kLength]) {
    Element elements[kLength];
#pragma unroll
    for (int i = 0; i < kLength; ++i) elements[i] = narrowed<Element>(values[i]);
    Packed packed;
    memcpy(&packed.word, elements, sizeof(packed.word));
    return packed;
  }
};

/// Elements at `source`; `available` of them exist, and the rest are zero. One access where all exist and `aligned`,
/// that is where `source` is a multiple of the access; else, as in a row's tail, element by element.
template <typename Element, int kLength>
__device__ Packed<Element, kLength> load_packed(const Element* source, int available, bool aligned) {
  using Word = typename Packed<Element, kLength>::Word;
  if (aligned && available >= kLength) return {*reinterpret_cast<const Word*>(source)};
  Element elements[kLength] = {};
#pragma unroll
  for (int i = 0; i < kLength; ++i)
    if (i < available) elements[i] = source[i];
  Packed<Element, kLength> packed;
  memcpy(&packed.word, elements, sizeof(Word));
  return packed;
}

template <typename Element, int kLength>
__device__ void store_packed(Element* target, int available, bool aligned, const float (&values)[kLength]) {
  using Word = typename Packed<Element, kLength>::Word;
  const Packed<Element, kLength> packed = Packed<Element, kLength>::of(values);
  if (aligned && available >= kLength) {
    *reinterpret_cast<Word*>(target) = packed.word;
    return;
  }
  Element elements[kLength];
  memcpy(elements, &packed.word, sizeof(Word));
#pragma unroll
  for (int i = 0; i < kLength; ++i)
    if (i < available) target[i] = elements[i];
}

}  // namespace cbtm::cuda
