#pragma once

// Tensor-core building blocks of the attention kernels: tiles of 16-bit elements in shared memory, ldmatrix, cp.async
// (plain copies below compute capability 8.0).
//
// A tile [rows, kHeadDim] lies row after row in chunks of 8 elements (16 bytes). Chunk c of row r is stored in place
// c ^ swizzle(r) of its row, so that both the 8 rows of a chunk that ldmatrix reads and 8 neighbouring chunks that a
// copy writes lie in different banks, with no padding: places 8 apart share their banks, and a row is a multiple of 8
// (head_dim 64, 128), of 4 (32, 96) or of 2 (80) chunks long.
//
// The accumulators of two neighbouring 8-column tiles (fragments as in mma.cuh) are the left operand of 16 k, once
// rounded to 16 bits.

#include "async_copy.cuh"
#include "attention/attention_rows.cuh"
#include "mma.cuh"

namespace cbtm::cuda::mma {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;

/// Element offset of chunk `chunk` of row `row`.
template <int kHeadDim>
__device__ __forceinline__ int place(int row, int chunk) {
  constexpr int kRowChunks = kHeadDim / 8;
  const int swizzle = kRowChunks % 8 == 0 ? row & 7 : kRowChunks % 4 == 0 ? (row >> 1) & 3 : (row >> 2) & 1;
  return row * kHeadDim + (chunk ^ swizzle) * 8;
}

/// The block copies kRows rows into a tile, asynchronously.
template <int kHeadDim, int kRows, typename Element>
__device__ __forceinline__ void copy_tile(Element* tile, const Rows<Element>& rows) {
  constexpr int kRowChunks = kHeadDim / 8;
#pragma unroll 1  // addresses of all passes at once would cost the registers that the sums need
  for (int index = static_cast<int>(threadIdx.x); index < kRows * kRowChunks; index += kThreads) {
    const int row = index / kRowChunks;
    const int chunk = index % kRowChunks;
    const bool inside = row < rows.count;
    copy_16(tile + place<kHeadDim>(row, chunk), rows.row(inside ? row : 0) + chunk * 8, inside);
  }
}

__device__ __forceinline__ void load_matrices(uint32_t (&m)[4], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(shared_address(p))
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&m)[4], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(shared_address(p))
               : "memory");
}

/// Left operand: rows row .. row + 15 of the tile, k = columns 16 step .. 16 step + 15.
template <int kHeadDim, typename Element>
__device__ __forceinline__ void load_left(uint32_t (&a)[4], const Element* tile, int row, int step) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  load_matrices(a, tile + place<kHeadDim>(row + lane % 16, 2 * step + lane / 16));
}
/// Right operand of two 8-column tiles (b[0], b[1] and b[2], b[3]): columns = rows row .. row + 15 of the tile, k = its
/// columns 16 step .. 16 step + 15.
template <int kHeadDim, typename Element>
__device__ __forceinline__ void load_right(uint32_t (&b)[4], const Element* tile, int row, int step) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  load_matrices(b, tile + place<kHeadDim>(row + lane / 16 * 8 + lane % 8, 2 * step + lane / 8 % 2));
}
/// Right operand of two 8-column tiles: k = rows row .. row + 15 of the tile, columns = its columns 16 step .. + 15.
template <int kHeadDim, typename Element>
__device__ __forceinline__ void load_right_transposed(uint32_t (&b)[4], const Element* tile, int row, int step) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  load_matrices_transposed(b, tile + place<kHeadDim>(row + lane / 8 % 2 * 8 + lane % 8, 2 * step + lane / 16));
}

template <typename Element>
__device__ __forceinline__ uint32_t rounded_pair(float low, float high);
template <>
__device__ __forceinline__ uint32_t rounded_pair<__half>(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
template <>
__device__ __forceinline__ uint32_t rounded_pair<__nv_bfloat16>(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

/// The accumulators of two neighbouring 8-column tiles as a left operand.
template <typename Element>
__device__ __forceinline__ void as_left(uint32_t (&a)[4], const float (&first)[4], const float (&second)[4]) {
  a[0] = rounded_pair<Element>(first[0], first[1]);
  a[1] = rounded_pair<Element>(first[2], first[3]);
  a[2] = rounded_pair<Element>(second[0], second[1]);
  a[3] = rounded_pair<Element>(second[2], second[3]);
}

/// scores[r][n] = left rows row + 16 r .. + 15 times right rows right_row + 8 n .. + 7, over the head's columns.
template <int kHeadDim, int kRowTiles, int kColumnTiles, typename Element>
__device__ __forceinline__ void score_product(float (&scores)[kRowTiles][kColumnTiles][4], const Element* left, int row,
                                              const Element* right, int right_row) {
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) scores[r][n][e] = 0;
#pragma unroll
  for (int step = 0; step < kHeadDim / 16; ++step) {
    uint32_t a[kRowTiles][4];
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) load_left<kHeadDim>(a[r], left, row + 16 * r, step);
#pragma unroll
    for (int n = 0; n < kColumnTiles; n += 2) {
      uint32_t b[4];
      load_right<kHeadDim>(b, right, right_row + 8 * n, step);
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        multiply<Element>(scores[r][n], a[r], b[0], b[1]);
        multiply<Element>(scores[r][n + 1], a[r], b[2], b[3]);
      }
    }
  }
}

/// sums[r] += weights[r] (rounded to 16 bits) times rows right_row .. right_row + 8 kColumnTiles of `right`.
template <int kHeadDim, int kRowTiles, int kColumnTiles, typename Element>
__device__ __forceinline__ void weighted_sum(float (&sums)[kRowTiles][kHeadDim / 8][4],
                                             const float (&weights)[kRowTiles][kColumnTiles][4], const Element* right,
                                             int right_row) {
#pragma unroll
  for (int n = 0; n < kColumnTiles; n += 2) {
    uint32_t a[kRowTiles][4];
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) as_left<Element>(a[r], weights[r][n], weights[r][n + 1]);
#pragma unroll
    for (int step = 0; step < kHeadDim / 16; ++step) {
      uint32_t b[4];
      load_right_transposed<kHeadDim>(b, right, right_row + 8 * n, step);
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        multiply<Element>(sums[r][2 * step], a[r], b[0], b[1]);
        multiply<Element>(sums[r][2 * step + 1], a[r], b[2], b[3]);
      }
    }
  }
}

/// Rows row .. row + 16 kRowTiles of an output = factor[r][half] * sums, through a warp's own rows of `tile` (whose
/// contents are lost), so that a lane stores 16 bytes; only rows below `count` of the block's tile are written.
template <int kHeadDim, int kRowTiles, typename Element>
__device__ __forceinline__ void write_rows(const AttentionOperand& out, int64_t first_row, int count, int column,
                                           const float (&sums)[kRowTiles][kHeadDim / 8][4],
                                           const float (&factor)[kRowTiles][2], Element* tile, int row) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  __syncwarp();
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        *reinterpret_cast<uint32_t*>(tile + place<kHeadDim>(row + 16 * r + 8 * half + lane / 4, n) + lane % 4 * 2) =
            rounded_pair<Element>(factor[r][half] * sums[r][n][2 * half], factor[r][half] * sums[r][n][2 * half + 1]);
  __syncwarp();
  constexpr int kRowChunks = kHeadDim / 8;
  Element* const destination = static_cast<Element*>(const_cast<void*>(out.data)) + first_row * out.stride + column;
#pragma unroll 4
  for (int index = lane; index < 16 * kRowTiles * kRowChunks; index += 32) {
    const int r = row + index / kRowChunks;
    const int chunk = index % kRowChunks;
    if (r < count)
      *reinterpret_cast<uint4*>(destination + r * out.stride + chunk * 8) =
          *reinterpret_cast<const uint4*>(tile + place<kHeadDim>(r, chunk));
  }
}

__device__ __forceinline__ float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace cbtm::cuda::mma
