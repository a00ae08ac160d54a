#pragma once

// wgmma: products of a warpgroup, 64 rows by kN columns and 16 of k each, 16-bit operands, float32 sums. 90a only.
//
// Accumulators of a thread, w = its warp of four, g = lane / 4, t = lane % 4 (PTX ISA, "Register fragments for wgmma"):
//   d[4 j], d[4 j + 1]: row 16 w + g, columns 8 j + 2 t, 8 j + 2 t + 1;   d[4 j + 2], d[4 j + 3]: row 16 w + g + 8
// The left operand in registers, pairs of elements:
//   a[0]: row 16 w + g, k 2 t, 2 t + 1;   a[1]: row + 8;   a[2], a[3]: the same, k + 8
// so accumulators of columns 16 i .. 16 i + 15, narrowed, are the left operand of step i of a next product.
//
// Order of calls: hold(d) (and hold(a)), begin_products(), multiply ... , commit_products(), wait_for_products<n>(),
// hold(d). Until the wait no thread touches the accumulators, the registers of a, or the operands in shared memory.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "hopper/barrier.cuh"

namespace cbtm::cuda::hopper {

/// Which index of an operand is contiguous: k, or its rows (left) or columns (right).
enum class Major : int { k = 0, mn = 1 };

/// An operand in shared memory, as tiles of bulk_copy.cuh with the 128-byte swizzle: 64 elements of 16 bits a row.
///
///   Major::k   a row of the tile is a row (left) or column (right) of the operand, 64 of k. 8 rows are 1024 bytes;
///   step
///              i of k is `advanced(descriptor, 32 * i)`.
///   Major::mn  a row of the tile is one of k, 64 rows or columns of the operand; the next 64 are `next_64_bytes`
///   further,
///              and step i of k is `advanced(descriptor, 2048 * i)`.
///
/// `tile` is 1024-byte aligned.
template <Major kMajor>
__device__ __forceinline__ uint64_t describe(const void* tile, uint32_t next_64_bytes = 16) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kEightRows = uint64_t{1024 >> 4} << 32;
  const uint64_t leading = kMajor == Major::k ? 1 : next_64_bytes >> 4;
  return kSwizzle128 | kEightRows | leading << 16 | (shared_address(tile) >> 4 & 0x3fff);
}
__device__ __forceinline__ uint64_t advanced(uint64_t descriptor, uint32_t bytes) { return descriptor + (bytes >> 4); }

/// Keeps the compiler from moving accesses of registers across the call.
template <int kCount>
__device__ __forceinline__ void hold(float (&registers)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(registers[i])::"memory");
}
template <int kCount>
__device__ __forceinline__ void hold(uint32_t (&registers)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(registers[i])::"memory");
}

/// Before the first product, and after registers that products use have been written.
__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
/// The products since the last call are one group.
__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Returns once at most kGroups groups are under way.
template <int kGroups>
__device__ __forceinline__ void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
}

template <int kN>
struct Wgmma;

/// d = a b, or d += a b: kN / 2 accumulators, both operands described.
template <typename Element, Major kLeft = Major::k, Major kRight = Major::k, int kCount>
__device__ __forceinline__ void multiply(float (&d)[kCount], uint64_t a, uint64_t b, bool add) {
  Wgmma<2 * kCount>::template from_shared<Element, kLeft, kRight>(d, a, b, add);
}
/// The same with the left operand in registers.
template <typename Element, Major kRight = Major::k, int kCount>
__device__ __forceinline__ void multiply(float (&d)[kCount], const uint32_t (&a)[4], uint64_t b, bool add) {
  Wgmma<2 * kCount>::template from_registers<Element, kRight>(d, a, b, add);
}

// clang-format off
// The assembler's lists of registers cannot be made by templates: macros spell them out, eight accumulators each.

#define CBTM_WGMMA_NAMES_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define CBTM_WGMMA_NAMES_16 CBTM_WGMMA_NAMES_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define CBTM_WGMMA_NAMES_24 CBTM_WGMMA_NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define CBTM_WGMMA_NAMES_32 CBTM_WGMMA_NAMES_24 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define CBTM_WGMMA_NAMES_40 CBTM_WGMMA_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define CBTM_WGMMA_NAMES_48 CBTM_WGMMA_NAMES_40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define CBTM_WGMMA_NAMES_56 CBTM_WGMMA_NAMES_48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define CBTM_WGMMA_NAMES_64 CBTM_WGMMA_NAMES_56 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define CBTM_WGMMA_NAMES_72 CBTM_WGMMA_NAMES_64 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define CBTM_WGMMA_NAMES_80 CBTM_WGMMA_NAMES_72 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define CBTM_WGMMA_NAMES_88 CBTM_WGMMA_NAMES_80 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define CBTM_WGMMA_NAMES_96 CBTM_WGMMA_NAMES_88 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define CBTM_WGMMA_NAMES_104 CBTM_WGMMA_NAMES_96 ", %96, %97, %98, %99, %100, %101, %102, %103"
#define CBTM_WGMMA_NAMES_112 CBTM_WGMMA_NAMES_104 ", %104, %105, %106, %107, %108, %109, %110, %111"
#define CBTM_WGMMA_NAMES_120 CBTM_WGMMA_NAMES_112 ", %112, %113, %114, %115, %116, %117, %118, %119"
#define CBTM_WGMMA_NAMES_128 CBTM_WGMMA_NAMES_120 ", %120, %121, %122, %123, %124, %125, %126, %127"

#define CBTM_WGMMA_D8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
                         "+f"(d[i + 6]), "+f"(d[i + 7])
#define CBTM_WGMMA_D_8 CBTM_WGMMA_D8(0)
#define CBTM_WGMMA_D_16 CBTM_WGMMA_D_8, CBTM_WGMMA_D8(8)
#define CBTM_WGMMA_D_24 CBTM_WGMMA_D_16, CBTM_WGMMA_D8(16)
#define CBTM_WGMMA_D_32 CBTM_WGMMA_D_24, CBTM_WGMMA_D8(24)
#define CBTM_WGMMA_D_40 CBTM_WGMMA_D_32, CBTM_WGMMA_D8(32)
#define CBTM_WGMMA_D_48 CBTM_WGMMA_D_40, CBTM_WGMMA_D8(40)
#define CBTM_WGMMA_D_56 CBTM_WGMMA_D_48, CBTM_WGMMA_D8(48)
#define CBTM_WGMMA_D_64 CBTM_WGMMA_D_56, CBTM_WGMMA_D8(56)
#define CBTM_WGMMA_D_72 CBTM_WGMMA_D_64, CBTM_WGMMA_D8(64)
#define CBTM_WGMMA_D_80 CBTM_WGMMA_D_72, CBTM_WGMMA_D8(72)
#define CBTM_WGMMA_D_88 CBTM_WGMMA_D_80, CBTM_WGMMA_D8(80)
#define CBTM_WGMMA_D_96 CBTM_WGMMA_D_88, CBTM_WGMMA_D8(88)
#define CBTM_WGMMA_D_104 CBTM_WGMMA_D_96, CBTM_WGMMA_D8(96)
#define CBTM_WGMMA_D_112 CBTM_WGMMA_D_104, CBTM_WGMMA_D8(104)
#define CBTM_WGMMA_D_120 CBTM_WGMMA_D_112, CBTM_WGMMA_D8(112)
#define CBTM_WGMMA_D_128 CBTM_WGMMA_D_120, CBTM_WGMMA_D8(120)

// COUNT = N / 2 accumulators are operands 0 to COUNT - 1; I0 to I6 are the numbers of the operands after them.
#define CBTM_WGMMA_SHARED(TYPE, N, COUNT, I0, I1, I2, I3, I4)                                                        \
  asm volatile("{\n.reg .pred sum;\nsetp.ne.b32 sum, %" #I2 ", 0;\n"                                                 \
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" CBTM_WGMMA_NAMES_##COUNT "}, "   \
               "%" #I0 ", %" #I1 ", sum, 1, 1, %" #I3 ", %" #I4 ";\n}"                                               \
               : CBTM_WGMMA_D_##COUNT                                                                                \
               : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(static_cast<int>(kLeft)), "n"(static_cast<int>(kRight)))
#define CBTM_WGMMA_REGISTERS(TYPE, N, COUNT, I0, I1, I2, I3, I4, I5, I6)                                             \
  asm volatile("{\n.reg .pred sum;\nsetp.ne.b32 sum, %" #I5 ", 0;\n"                                                 \
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" CBTM_WGMMA_NAMES_##COUNT "}, "   \
               "{%" #I0 ", %" #I1 ", %" #I2 ", %" #I3 "}, %" #I4 ", sum, 1, 1, %" #I6 ";\n}"                         \
               : CBTM_WGMMA_D_##COUNT                                                                                \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)),                     \
                 "n"(static_cast<int>(kRight)))
#define CBTM_WGMMA(N, COUNT, I0, I1, I2, I3, I4, I5, I6)                                                             \
  template <>                                                                                                        \
  struct Wgmma<N> {                                                                                                  \
    template <typename Element, Major kLeft, Major kRight>                                                           \
    static __device__ __forceinline__ void from_shared(float (&d)[COUNT], uint64_t a, uint64_t b, bool add) {        \
      if constexpr (std::is_same_v<Element, __half>)                                                                 \
        CBTM_WGMMA_SHARED("f16", N, COUNT, I0, I1, I2, I3, I4);                                                      \
      else                                                                                                           \
        CBTM_WGMMA_SHARED("bf16", N, COUNT, I0, I1, I2, I3, I4);                                                     \
    }                                                                                                                \
    template <typename Element, Major kRight>                                                                        \
    static __device__ __forceinline__ void from_registers(float (&d)[COUNT], const uint32_t (&a)[4], uint64_t b,     \
                                                          bool add) {                                                \
      if constexpr (std::is_same_v<Element, __half>)                                                                 \
        CBTM_WGMMA_REGISTERS("f16", N, COUNT, I0, I1, I2, I3, I4, I5, I6);                                           \
      else                                                                                                           \
        CBTM_WGMMA_REGISTERS("bf16", N, COUNT, I0, I1, I2, I3, I4, I5, I6);                                          \
    }                                                                                                                \
  }

CBTM_WGMMA(16, 8, 8, 9, 10, 11, 12, 13, 14);
CBTM_WGMMA(32, 16, 16, 17, 18, 19, 20, 21, 22);
CBTM_WGMMA(48, 24, 24, 25, 26, 27, 28, 29, 30);
CBTM_WGMMA(64, 32, 32, 33, 34, 35, 36, 37, 38);
CBTM_WGMMA(80, 40, 40, 41, 42, 43, 44, 45, 46);
CBTM_WGMMA(96, 48, 48, 49, 50, 51, 52, 53, 54);
CBTM_WGMMA(112, 56, 56, 57, 58, 59, 60, 61, 62);
CBTM_WGMMA(128, 64, 64, 65, 66, 67, 68, 69, 70);
CBTM_WGMMA(144, 72, 72, 73, 74, 75, 76, 77, 78);
CBTM_WGMMA(160, 80, 80, 81, 82, 83, 84, 85, 86);
CBTM_WGMMA(176, 88, 88, 89, 90, 91, 92, 93, 94);
CBTM_WGMMA(192, 96, 96, 97, 98, 99, 100, 101, 102);
CBTM_WGMMA(208, 104, 104, 105, 106, 107, 108, 109, 110);
CBTM_WGMMA(224, 112, 112, 113, 114, 115, 116, 117, 118);
CBTM_WGMMA(240, 120, 120, 121, 122, 123, 124, 125, 126);
CBTM_WGMMA(256, 128, 128, 129, 130, 131, 132, 133, 134);

#undef CBTM_WGMMA
#undef CBTM_WGMMA_REGISTERS
#undef CBTM_WGMMA_SHARED
#undef CBTM_WGMMA_D8
#undef CBTM_WGMMA_D_8
#undef CBTM_WGMMA_D_16
#undef CBTM_WGMMA_D_24
#undef CBTM_WGMMA_D_32
#undef CBTM_WGMMA_D_40
#undef CBTM_WGMMA_D_48
#undef CBTM_WGMMA_D_56
#undef CBTM_WGMMA_D_64
#undef CBTM_WGMMA_D_72
#undef CBTM_WGMMA_D_80
#undef CBTM_WGMMA_D_88
#undef CBTM_WGMMA_D_96
#undef CBTM_WGMMA_D_104
#undef CBTM_WGMMA_D_112
#undef CBTM_WGMMA_D_120
#undef CBTM_WGMMA_D_128
#undef CBTM_WGMMA_NAMES_8
#undef CBTM_WGMMA_NAMES_16
#undef CBTM_WGMMA_NAMES_24
#undef CBTM_WGMMA_NAMES_32
#undef CBTM_WGMMA_NAMES_40
#undef CBTM_WGMMA_NAMES_48
#undef CBTM_WGMMA_NAMES_56
#undef CBTM_WGMMA_NAMES_64
#undef CBTM_WGMMA_NAMES_72
#undef CBTM_WGMMA_NAMES_80
#undef CBTM_WGMMA_NAMES_88
#undef CBTM_WGMMA_NAMES_96
#undef CBTM_WGMMA_NAMES_104
#undef CBTM_WGMMA_NAMES_112
#undef CBTM_WGMMA_NAMES_120
#undef CBTM_WGMMA_NAMES_128
// clang-format on

}  // namespace cbtm::cuda::hopper
