// What Cholesky-QR of a tall matrix needs: its Gram matrix, and division by a triangle from the right.

#include <algorithm>

#include "dispatch.h"
#include "gram.h"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

constexpr int kTile = 64;   ///< columns of x on each side of a block's tile of the product
constexpr int kChunk = 16;  ///< rows of x in shared memory
constexpr int kGramThreads = 128;
constexpr int kSumRows = 4;           ///< of a tile in a block of gram_sum: 32 bytes of a mirrored row
constexpr int64_t kPieceRows = 1024;  ///< summed in float32 before they join the float64 sums

/// Tiles of the upper triangle, in rows.
__device__ void tile_of(int number, int tiles, int& i, int& j) {
  i = 0;
  while (number >= tiles - i) number -= tiles - i++;
  j = i + number;
}

/// The thread's part of a chunk, [kChunk, kTile] of x from (row, column) on; zeros beyond the matrix.
struct Prefetched {
  float4 vectors[2];
};
template <bool kVectors>
__device__ Prefetched load_chunk(const float* __restrict__ x, int64_t stride, int64_t row, int64_t row_end, int column,
                                 int columns) {
  Prefetched loaded;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int place = threadIdx.x + i * kGramThreads;  // of 256 vectors: 16 a row
    const int64_t r = row + place / 16;
    const int c = column + place % 16 * 4;
    float4 vector = {0, 0, 0, 0};
    if (r < row_end) {
      const float* from = x + r * stride + c;
      if (kVectors) {
        if (c < columns) vector = *reinterpret_cast<const float4*>(from);
      } else {
        if (c < columns) vector.x = from[0];
        if (c + 1 < columns) vector.y = from[1];
        if (c + 2 < columns) vector.z = from[2];
        if (c + 3 < columns) vector.w = from[3];
      }
    }
    loaded.vectors[i] = vector;
  }
  return loaded;
}
__device__ void store_chunk(const Prefetched& loaded, float (*tile)[kTile]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int place = threadIdx.x + i * kGramThreads;
    *reinterpret_cast<float4*>(&tile[place / 16][place % 16 * 4]) = loaded.vectors[i];
  }
}

// partials[split][tile] = the tile of xᵀ x over the split's rows, for tiles of the upper triangle.
//
// mapping   blockIdx.x a tile of 64 x 64, blockIdx.y a range of rows of whole pieces; a thread holds 8 x 4 of the tile,
//           float32 within a piece and float64 over pieces. The next chunk of 16 rows is read while this one is used.
// bytes     rows * columns * 4 * (tiles + 1) / 2 read where tiles = ceil(columns / 64): 1.5 times the matrix for 110
//           columns, the second reading from the L2 cache; splits * 32 KiB a tile written. Bound by float32 arithmetic:
//           columns / 2 flops a byte.
// numerics  float32 over at most 1024 rows, then float64.
template <bool kVectors>
__global__ void __launch_bounds__(kGramThreads)
    gram_tiles(const float* __restrict__ x, int64_t stride, int64_t rows, int columns, int64_t rows_per_split,
               double* __restrict__ partials) {
  __shared__ float4 left_memory[kChunk * kTile / 4], right_memory[kChunk * kTile / 4];
  auto* left = reinterpret_cast<float(*)[kTile]>(left_memory);
  auto* right = reinterpret_cast<float(*)[kTile]>(right_memory);
  int tile_i, tile_j;
  tile_of(blockIdx.x, (columns + kTile - 1) / kTile, tile_i, tile_j);
  const bool diagonal = tile_i == tile_j;
  const int first_i = threadIdx.x / 16 * 8, first_j = threadIdx.x % 16 * 4;
  const int64_t begin = blockIdx.y * rows_per_split, end = min(begin + rows_per_split, rows);
  double total[8][4] = {};
  float piece[8][4] = {};
  Prefetched next_left = load_chunk<kVectors>(x, stride, begin, end, tile_i * kTile, columns);
  Prefetched next_right = next_left;
  if (!diagonal) next_right = load_chunk<kVectors>(x, stride, begin, end, tile_j * kTile, columns);
  for (int64_t row = begin; row < end; row += kChunk) {
    __syncthreads();
    store_chunk(next_left, left);
    if (!diagonal) store_chunk(next_right, right);
    __syncthreads();
    if (row + kChunk < end) {
      next_left = load_chunk<kVectors>(x, stride, row + kChunk, end, tile_i * kTile, columns);
      if (!diagonal) next_right = load_chunk<kVectors>(x, stride, row + kChunk, end, tile_j * kTile, columns);
    }
    const float(*other)[kTile] = diagonal ? left : right;
#pragma unroll
    for (int r = 0; r < kChunk; ++r) {
      float a[8];
      *reinterpret_cast<float4*>(a) = *reinterpret_cast<const float4*>(&left[r][first_i]);
      *reinterpret_cast<float4*>(a + 4) = *reinterpret_cast<const float4*>(&left[r][first_i + 4]);
      const float4 b = *reinterpret_cast<const float4*>(&other[r][first_j]);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        piece[i][0] = fmaf(a[i], b.x, piece[i][0]);
        piece[i][1] = fmaf(a[i], b.y, piece[i][1]);
        piece[i][2] = fmaf(a[i], b.z, piece[i][2]);
        piece[i][3] = fmaf(a[i], b.w, piece[i][3]);
      }
    }
    if ((row + kChunk - begin) % kPieceRows != 0 && row + kChunk < end) continue;
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        total[i][j] += static_cast<double>(piece[i][j]);
        piece[i][j] = 0;
      }
  }
  double* out = partials + (static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x) * kTile * kTile;
  // Two lanes write 32 bytes together, first the even one's four columns and then the odd one's: each keeps one pair
  // and hands the other over.
  const bool is_odd = threadIdx.x % 2 != 0;
  double* target = out + first_i * kTile + first_j / 8 * 8 + (is_odd ? 2 : 0);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const double received0 = __shfl_xor_sync(~0u, is_odd ? total[i][0] : total[i][2], 1);
    const double received1 = __shfl_xor_sync(~0u, is_odd ? total[i][1] : total[i][3], 1);
    *reinterpret_cast<double2*>(target + i * kTile) =
        is_odd ? double2{received0, received1} : double2{total[i][0], total[i][1]};
    *reinterpret_cast<double2*>(target + i * kTile + 4) =
        is_odd ? double2{total[i][2], total[i][3]} : double2{received0, received1};
  }
}

// The splits added in order, and tiles above the diagonal mirrored. A block 4 rows of a tile, a thread an element.
__global__ void __launch_bounds__(kSumRows* kTile)
    gram_sum(const double* __restrict__ partials, int splits, int tiles_in_all, int columns,
             double* __restrict__ product, int64_t stride) {
  int tile_i, tile_j;
  tile_of(blockIdx.x, (columns + kTile - 1) / kTile, tile_i, tile_j);
  __shared__ double rows[kSumRows][kTile + 4];  // so that half a warp's 4 columns of 4 rows lie in different banks
  const auto thread = static_cast<int>(threadIdx.x);
  const int first_i = tile_i * kTile + static_cast<int>(blockIdx.y) * kSumRows;
  const int i = first_i + thread / kTile, j = tile_j * kTile + thread % kTile;
  double sum = 0;
  if (i < columns && j < columns) {
    const int64_t place = static_cast<int64_t>(blockIdx.y) * kSumRows * kTile + thread;
    for (int split = 0; split < splits; ++split)
      sum += partials[(static_cast<int64_t>(split) * tiles_in_all + blockIdx.x) * kTile * kTile + place];
    product[i * stride + j] = sum;
  }
  if (tile_i == tile_j) return;
  rows[thread / kTile][thread % kTile] = sum;
  __syncthreads();
  const int mirrored_i = first_i + thread % kSumRows, mirrored_j = tile_j * kTile + thread / kSumRows;
  if (mirrored_i < columns && mirrored_j < columns)
    product[mirrored_j * stride + mirrored_i] = rows[thread % kSumRows][thread / kSumRows];
}

constexpr int kSolveThreads = 128;
constexpr int kSolveRows = 4;  ///< rows a warp solves at once, so that a row of R is read once for four

// factor = R in float32 with zeros in and below the diagonal; inverses = 1 / diagonal, or 0.
__global__ void prepare_triangle(const double* __restrict__ upper, int64_t stride, int columns,
                                 float* __restrict__ factor, float* __restrict__ inverses) {
  const int i = blockIdx.x;
  for (int j = threadIdx.x; j < columns; j += blockDim.x) {
    const double value = j >= i ? upper[i * stride + j] : 0;
    factor[static_cast<int64_t>(i) * columns + j] = j > i ? static_cast<float>(value) : 0.0f;
    if (j == i) inverses[i] = value != 0 ? static_cast<float>(1 / value) : 0.0f;
  }
}

// Each row of y := row R⁻¹, by substitution: value j is final, then what it stands for is taken off the later ones.
//
// mapping   a warp 4 rows, column c in lane c % 32, register c / 32; R from the L1 cache.
// bytes     rows * columns * (read 4 + write 4).
// numerics  float32; the orthogonalisation runs twice, the second pass starting from nearly orthogonal columns.
template <int kSlots>
__global__ void __launch_bounds__(kSolveThreads)
    solve_upper_warp_per_rows(const float* __restrict__ factor, const float* __restrict__ inverses,
                              float* __restrict__ y, int64_t stride, int64_t rows, int columns) {
  const int lane = threadIdx.x % 32;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * (kSolveThreads / 32) + threadIdx.x / 32) * kSolveRows;
  if (first >= rows) return;
  float values[kSolveRows][kSlots];
#pragma unroll
  for (int r = 0; r < kSolveRows; ++r)
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const int column = s * 32 + lane;
      values[r][s] = first + r < rows && column < columns ? y[(first + r) * stride + column] : 0.0f;
    }
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    const int count = min(32, columns - s * 32);
    for (int owner = 0; owner < count; ++owner) {
      const int j = s * 32 + owner;
      const float inverse = inverses[j];
      float final_value[kSolveRows];
#pragma unroll
      for (int r = 0; r < kSolveRows; ++r) {
        final_value[r] = __shfl_sync(~0u, values[r][s], owner) * inverse;
        if (lane == owner) values[r][s] = final_value[r];
      }
      const float* row = factor + static_cast<int64_t>(j) * columns;
#pragma unroll
      for (int later = s; later < kSlots; ++later) {
        const int column = later * 32 + lane;
        const float coefficient = column < columns ? row[column] : 0.0f;
#pragma unroll
        for (int r = 0; r < kSolveRows; ++r) values[r][later] = fmaf(-final_value[r], coefficient, values[r][later]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kSolveRows; ++r)
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const int column = s * 32 + lane;
      if (first + r < rows && column < columns) y[(first + r) * stride + column] = values[r][s];
    }
}

}  // namespace

void gram(Context& context, ConstTensorView x, TensorView product) {
  const auto columns = static_cast<int>(x.columns);
  if (columns == 0) return;
  const int side = (columns + kTile - 1) / kTile;
  const int tiles = side * (side + 1) / 2;
  const int64_t pieces = std::max<int64_t>(1, (x.rows + kPieceRows - 1) / kPieceRows);
  const int64_t wanted = std::max<int64_t>(1, int64_t{4} * context.sm_count / tiles);
  const int64_t pieces_per_split = (pieces + wanted - 1) / wanted;
  const auto splits = static_cast<int>((pieces + pieces_per_split - 1) / pieces_per_split);
  auto* partials = static_cast<double*>(context.workspace(static_cast<int64_t>(splits) * tiles * kTile * kTile * 8));
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(splits));
  (whole_vectors(x) ? gram_tiles<true> : gram_tiles<false>)<<<grid, kGramThreads, 0, context.stream>>>(
      x.as<float>(), x.row_stride, x.rows, columns, pieces_per_split * kPieceRows, partials);
  CBTM_CUDA_LAUNCHED("gram_tiles");
  gram_sum<<<dim3(static_cast<unsigned>(tiles), kTile / kSumRows), kSumRows * kTile, 0, context.stream>>>(
      partials, splits, tiles, columns, product.as<double>(), product.row_stride);
  CBTM_CUDA_LAUNCHED("gram_sum");
}

void solve_upper(Context& context, ConstTensorView upper, TensorView y) {
  CBTM_ASSERT(upper.rows == y.columns && upper.columns == y.columns, "a triangle as wide as the rows");
  const auto columns = static_cast<int>(y.columns);
  if (y.size() == 0) return;
  if (columns > 1024)
    throw Error("--dimensions of more than 1000 are too many for the CUDA device; use fewer, or --device cpu");
  auto* factor = static_cast<float*>(context.workspace((static_cast<int64_t>(columns) + 1) * columns * 4));
  float* inverses = factor + static_cast<int64_t>(columns) * columns;
  prepare_triangle<<<static_cast<unsigned>(columns), 128, 0, context.stream>>>(upper.as<double>(), upper.row_stride,
                                                                               columns, factor, inverses);
  CBTM_CUDA_LAUNCHED("prepare_triangle");
  const int64_t rows_per_block = kSolveThreads / 32 * kSolveRows;
  const auto blocks = static_cast<unsigned>((y.rows + rows_per_block - 1) / rows_per_block);
  const auto launch = [&](auto kernel) {
    kernel<<<blocks, kSolveThreads, 0, context.stream>>>(factor, inverses, y.as<float>(), y.row_stride, y.rows,
                                                         columns);
  };
  if (columns <= 32)
    launch(solve_upper_warp_per_rows<1>);
  else if (columns <= 64)
    launch(solve_upper_warp_per_rows<2>);
  else if (columns <= 128)
    launch(solve_upper_warp_per_rows<4>);
  else if (columns <= 256)
    launch(solve_upper_warp_per_rows<8>);
  else if (columns <= 512)
    launch(solve_upper_warp_per_rows<16>);
  else
    launch(solve_upper_warp_per_rows<32>);
  CBTM_CUDA_LAUNCHED("solve_upper");
}

}  // namespace cbtm::cuda
