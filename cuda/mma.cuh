#pragma once

// mma.sync m16n8k16 of 16-bit operands with float32 accumulators; two m16n8k8 below compute capability 8.0.
//
// Fragments of a lane, g = lane / 4, t = lane % 4 (PTX ISA, "Matrix fragments for mma.m16n8k16"):
//   accumulator  c[0], c[1]: row g, columns 2 t, 2 t + 1;  c[2], c[3]: row g + 8
//   left         a[0]: row g, k 2 t, 2 t + 1;  a[1]: row g + 8;  a[2], a[3]: the same, k + 8
//   right        b[0]: column g, k 2 t, 2 t + 1;  b[1]: k + 8
// A sum over k does not mind their order: any k may take these places, if left and right agree.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace cbtm::cuda::mma {

/// c += a b, float32 accumulators.
template <typename Element>
__device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <>
__device__ __forceinline__ void multiply<__half>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  const auto half_step = [&](uint32_t a0, uint32_t a1, uint32_t b) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(b));
  };
  half_step(a[0], a[1], b0);
  half_step(a[2], a[3], b1);
#endif
}
template <>
__device__ __forceinline__ void multiply<__nv_bfloat16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                                        uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  __trap();  // there are none; refused on the host
#endif
}

}  // namespace cbtm::cuda::mma
