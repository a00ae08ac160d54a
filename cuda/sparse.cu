// Sparse matrices of clustering: tf-idf rows, transposed copy, product with a dense matrix of some hundred columns.

#include <cub/device/device_radix_sort.cuh>

#include "dispatch.h"
#include "runtime/check.h"
#include "segments.h"
#include "sparse.h"

namespace cbtm::cuda {
namespace {

constexpr int kWarpsPerBlock = 8;
constexpr int kThreads = 32 * kWarpsPerBlock;
/// Entries from which a row is shared by the warps of its block: a few words occur in a large part of all documents.
constexpr int64_t kLongRow = 2048;

unsigned blocks_of(int64_t rows) { return static_cast<unsigned>((rows + kWarpsPerBlock - 1) / kWarpsPerBlock); }

struct Csr {
  const int64_t* __restrict__ indptr;
  const int32_t* __restrict__ indices;
  const float* __restrict__ values;
  int64_t rows;
};
Csr csr_of(const SparseMatrix& a) {
  return {a.indptr.as<int64_t>(), a.indices.as<int32_t>(), a.values.as<float>(), a.rows};
}

// value[e] = count[e] * idf[column[e]] / length of its row.
//
// mapping   a warp a row, its entries across the lanes.
// bytes     entries * (read 8 + write 4) + rows * 8; idf (8 a column) stays in the cache. Products of the first 256
//           entries are kept in registers; what is longer is read twice.
// numerics  float64, as the method's definition.
__global__ void __launch_bounds__(kThreads)
    tfidf_rows_warp_per_row(Csr a, const double* __restrict__ idf, float* __restrict__ values) {
  constexpr int kKept = 8;
  const int lane = threadIdx.x % 32;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.x / 32;
  if (row >= a.rows) return;
  const int64_t begin = a.indptr[row], end = a.indptr[row + 1];
  const auto product = [&](int64_t entry) { return static_cast<double>(values[entry]) * idf[a.indices[entry]]; };
  double kept[kKept];
  double square = 0;
#pragma unroll
  for (int i = 0; i < kKept; ++i) {
    const int64_t entry = begin + i * 32 + lane;
    kept[i] = entry < end ? product(entry) : 0;
    square += kept[i] * kept[i];
  }
  for (int64_t entry = begin + kKept * 32 + lane; entry < end; entry += 32) {
    const double value = product(entry);
    square += value * value;
  }
  for (int offset = 16; offset > 0; offset /= 2) square += __shfl_xor_sync(~0u, square, offset);
  if (square == 0) return;
  const double length = sqrt(square);
#pragma unroll
  for (int i = 0; i < kKept; ++i) {
    const int64_t entry = begin + i * 32 + lane;
    if (entry < end) values[entry] = static_cast<float>(kept[i] / length);
  }
  for (int64_t entry = begin + kKept * 32 + lane; entry < end; entry += 32)
    values[entry] = static_cast<float>(product(entry) / length);
}

/// A value and the row it lies in: what a sort by columns carries along.
__device__ uint64_t pack(int64_t row, float value) { return static_cast<uint64_t>(row) << 32 | __float_as_uint(value); }

// packed[e] = (row, value) and keys[e] = column of entry e: a warp a row. Bytes: entries * (read 8 + write 12) + rows
// * 8.
__global__ void __launch_bounds__(kThreads)
    expand_rows(Csr a, int32_t* __restrict__ keys, uint64_t* __restrict__ packed) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.x / 32;
  if (row >= a.rows) return;
  for (int64_t entry = a.indptr[row] + threadIdx.x % 32; entry < a.indptr[row + 1]; entry += 32) {
    keys[entry] = a.indices[entry];
    packed[entry] = pack(row, a.values[entry]);
  }
}

// The sorted pairs taken apart. Bytes: entries * (read 8 + write 8).
__global__ void __launch_bounds__(kThreads) unpack_entries(const uint64_t* __restrict__ packed, int64_t count,
                                                           int32_t* __restrict__ rows, float* __restrict__ values) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += stride) {
    rows[i] = static_cast<int32_t>(packed[i] >> 32);
    values[i] = __uint_as_float(static_cast<uint32_t>(packed[i]));
  }
}

template <int kVector>
struct Columns;
template <>
struct Columns<1> {
  using Type = float;
  static __device__ float zero() { return 0; }
  static __device__ void add(float& sum, float factor, float x) { sum = fmaf(factor, x, sum); }
};
template <>
struct Columns<4> {
  using Type = float4;
  static __device__ float4 zero() { return {0, 0, 0, 0}; }
  static __device__ void add(float4& sum, float factor, float4 x) {
    sum.x = fmaf(factor, x.x, sum.x);
    sum.y = fmaf(factor, x.y, sum.y);
    sum.z = fmaf(factor, x.z, sum.z);
    sum.w = fmaf(factor, x.w, sum.w);
  }
};

/// Σ values[e] x[indices[e]] over entries begin .. end, this lane's columns. Indices and values are read by the whole
/// warp at once and handed round.
template <int kVector>
__device__ typename Columns<kVector>::Type sum_of_entries(const Csr& a, int64_t begin, int64_t end,
                                                          const float* __restrict__ x, int64_t x_stride, bool active) {
  using Vector = typename Columns<kVector>::Type;
  const int lane = threadIdx.x % 32;
  Vector sum = Columns<kVector>::zero();
  for (int64_t base = begin; base < end; base += 32) {
    const int count = static_cast<int>(min(int64_t{32}, end - base));
    const int32_t index = lane < count ? a.indices[base + lane] : 0;
    const float value = lane < count ? a.values[base + lane] : 0;
#pragma unroll 4
    for (int entry = 0; entry < count; ++entry) {
      const int64_t row = __shfl_sync(~0u, index, entry);
      const float factor = __shfl_sync(~0u, value, entry);
      if (active) Columns<kVector>::add(sum, factor, *reinterpret_cast<const Vector*>(x + row * x_stride));
    }
  }
  return sum;
}

// y[r] = Σ_e values[e] x[indices[e]] over the entries of row r.
//
// mapping   a warp a row and a block of 32 * kVector columns (blockIdx.y), one 16-byte vector (or a float, where rows
//           of x are not aligned) a lane. A row of more than kLongRow entries is taken by the 8 warps of its block, an
//           eighth each, and the parts are added in order.
// bytes     entries * (8 + 4 * columns) read, most of x's from the cache; rows * (8 + 4 * columns) written.
// numerics  float32, entries in order; long rows in 8 parts.
template <int kVector>
__global__ void __launch_bounds__(kThreads, 4)
    sparse_times_dense_warp_per_row(Csr a, const float* __restrict__ x, int64_t x_stride, float* __restrict__ y,
                                    int64_t y_stride, int64_t columns) {
  using Vector = typename Columns<kVector>::Type;
  __shared__ Vector parts[kWarpsPerBlock][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * 32 + lane) * kVector;
  const bool active = column < columns;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock;
  const int64_t row = first_row + warp;
  if (row < a.rows) {
    const int64_t begin = a.indptr[row], end = a.indptr[row + 1];
    if (end - begin <= kLongRow) {
      const Vector sum = sum_of_entries<kVector>(a, begin, end, x + column, x_stride, active);
      if (active) *reinterpret_cast<Vector*>(y + row * y_stride + column) = sum;
    }
  }
  for (int64_t shared_row = first_row; shared_row < min(first_row + kWarpsPerBlock, a.rows); ++shared_row) {
    const int64_t begin = a.indptr[shared_row], end = a.indptr[shared_row + 1];
    if (end - begin <= kLongRow) continue;  // the same for all threads of the block
    const int64_t part = (end - begin + kWarpsPerBlock - 1) / kWarpsPerBlock;
    parts[warp][lane] = sum_of_entries<kVector>(a, min(begin + warp * part, end), min(begin + (warp + 1) * part, end),
                                                x + column, x_stride, active);
    __syncthreads();
    if (warp == 0 && active) {
      Vector sum = parts[0][lane];
      for (int other = 1; other < kWarpsPerBlock; ++other) Columns<kVector>::add(sum, 1.0f, parts[other][lane]);
      *reinterpret_cast<Vector*>(y + shared_row * y_stride + column) = sum;
    }
    __syncthreads();
  }
}

template <int kVector>
void launch_product(Context& context, const SparseMatrix& a, ConstTensorView x, TensorView y) {
  const dim3 grid(blocks_of(a.rows), static_cast<unsigned>((x.columns + 32 * kVector - 1) / (32 * kVector)));
  sparse_times_dense_warp_per_row<kVector><<<grid, kThreads, 0, context.stream>>>(
      csr_of(a), x.as<float>(), x.row_stride, y.as<float>(), y.row_stride, x.columns);
  CBTM_CUDA_LAUNCHED("sparse_times_dense");
}

}  // namespace

void tfidf_rows(Context& context, const TfIdfRows& arguments) {
  const SparseMatrix& counts = arguments.counts;
  if (counts.rows == 0) return;
  tfidf_rows_warp_per_row<<<blocks_of(counts.rows), kThreads, 0, context.stream>>>(
      csr_of(counts), arguments.inverse_document_frequencies.as<double>(), counts.values.as<float>());
  CBTM_CUDA_LAUNCHED("tfidf_rows");
}

// By a stable radix sort (CUB): deterministic, and entries of a row keep their order.
void sparse_transpose(Context& context, const SparseMatrix& a, const SparseMatrix& transposed) {
  CBTM_ASSERT(transposed.rows == a.columns && transposed.columns == a.rows && transposed.entries() == a.entries(),
              "shapes of a transposed copy agree");
  const int64_t entries = a.entries();
  // One of the two buffers of keys is the result's column buffer, which is written last.
  cub::DoubleBuffer<int32_t> keys(transposed.indices.as<int32_t>(), nullptr);
  cub::DoubleBuffer<uint64_t> packed(nullptr, nullptr);
  const int bits = bits_for(a.columns);
  size_t sort_bytes = 0;
  CBTM_CUDA(cub::DeviceRadixSort::SortPairs(nullptr, sort_bytes, keys, packed, entries, 0, bits, context.stream));
  const int64_t keys_bytes = (entries * 4 + 255) / 256 * 256, packed_bytes = (entries * 8 + 255) / 256 * 256;
  char* workspace =
      static_cast<char*>(context.workspace(keys_bytes + 2 * packed_bytes + static_cast<int64_t>(sort_bytes)));
  keys.d_buffers[1] = reinterpret_cast<int32_t*>(workspace);
  packed.d_buffers[0] = reinterpret_cast<uint64_t*>(workspace + keys_bytes);
  packed.d_buffers[1] = reinterpret_cast<uint64_t*>(workspace + keys_bytes + packed_bytes);
  if (a.rows > 0) {
    expand_rows<<<blocks_of(a.rows), kThreads, 0, context.stream>>>(csr_of(a), keys.Current(), packed.Current());
    CBTM_CUDA_LAUNCHED("expand_rows");
  }
  if (entries > 0)
    CBTM_CUDA(cub::DeviceRadixSort::SortPairs(workspace + keys_bytes + 2 * packed_bytes, sort_bytes, keys, packed,
                                              entries, 0, bits, context.stream));
  launch_segment_starts(context.stream, context.sm_count, keys.Current(), entries, transposed.rows,
                        transposed.indptr.as<int64_t>());
  if (entries == 0) return;
  const int64_t blocks = std::min<int64_t>((entries + kThreads - 1) / kThreads, int64_t{16} * context.sm_count);
  unpack_entries<<<static_cast<unsigned>(blocks), kThreads, 0, context.stream>>>(
      packed.Current(), entries, transposed.indices.as<int32_t>(), transposed.values.as<float>());
  CBTM_CUDA_LAUNCHED("unpack_entries");
}

void sparse_times_dense(Context& context, const SparseMatrix& a, ConstTensorView x, TensorView y) {
  CBTM_ASSERT(x.rows == a.columns && y.rows == a.rows && x.columns == y.columns, "shapes of a product agree");
  if (y.size() == 0) return;
  if (whole_vectors(x) && whole_vectors(y))
    launch_product<4>(context, a, x, y);
  else
    launch_product<1>(context, a, x, y);
}

}  // namespace cbtm::cuda
