// The forward kernel of residual + dropout + layer normalisation: a part of layernorm.cu.

#pragma once

#include "dropout.cuh"
#include "row_sum.cuh"
#include "row_threads.cuh"

namespace cbtm::cuda {
namespace {

constexpr int kSharedBytesByDefault = 48 * 1024;

/// Elements of a 16-byte access.
template <typename Element>
constexpr int kPackLength = 16 / static_cast<int>(sizeof(Element));

template <typename Element>
struct Rows {
  Element* data = nullptr;
  int64_t stride = 0;

  Rows() = default;
  template <typename View>
  explicit Rows(View view) : stride(view.row_stride) {
    if (view) data = view.template as<std::remove_const_t<Element>>();
  }
  __device__ Element* at(int64_t row, int column) const { return data + row * stride + column; }
};

template <typename Element>
struct ForwardParams {
  Rows<const Element> residual, branch;  // `sum` may be the memory of `residual`, so neither is __restrict__
  Rows<Element> sum, normalized;
  AnyVector gamma, beta;
  float* mean;
  float* rstd;
  DropoutDraw dropout;
  int64_t rows;
  int width, padded_width;
  bool aligned;  ///< every row starts at a multiple of 16 bytes
  float epsilon;
};

// sum = residual + branch * multipliers;  normalized = (sum - mean) * rstd * gamma + beta
//
// mapping   RowThreads: a thread holds kValues elements of a row, blocks go on from row to row; the packs of the next
//           row are under way while this one is worked on. Tails, and rows that are not aligned, by element.
// bytes     rows * width * sizeof(Element) * (2 read, 2 written) + rows * 8, gamma and beta once a block
// shared    gamma and beta in float32: 8 * padded_width
// numerics  float32; the statistics are those of the sum as it is stored, mean first and then the squared differences
//           (OPT's residual stream has outliers for which E[x^2] - E[x]^2 loses the variance)
template <typename Element, int kValues, bool kWhole>
__global__ void __launch_bounds__(kRowBlockThreads, kValues == 8 ? 2 : 1)
    residual_layernorm_forward_rows(const ForwardParams<Element> p) {
  constexpr int kLength = kPackLength<Element>;
  constexpr int kPacks = kValues / kLength;
  using Pack = Packed<Element, kLength>;
  extern __shared__ __align__(16) float vectors[];
  __shared__ RowSums row_sums;
  const DropoutDraw dropout = p.dropout.placed();
  const int threads = static_cast<int>(blockDim.x);
  const int column0 = static_cast<int>(threadIdx.x) * kLength;
  const int step = threads * kLength;
  float* gamma = vectors;
  float* beta = vectors + p.padded_width;
  if (p.normalized.data != nullptr) {
    stage_vector<kLength>(p.gamma, 1, p.width, p.padded_width, gamma);
    stage_vector<kLength>(p.beta, 0, p.width, p.padded_width, beta);
    __syncthreads();
  }

  Pack residual[kPacks], branch[kPacks];
  const auto load_pack = [&](int64_t row, int v) {
    const int column = column0 + v * step;
    residual[v] = load_packed<Element, kLength, kWhole>(p.residual.at(row, column), p.width - column, p.aligned);
    if (p.branch.data != nullptr)
      branch[v] = load_packed<Element, kLength, kWhole>(p.branch.at(row, column), p.width - column, p.aligned);
  };
  const auto load_row = [&](int64_t row) {
    if (row >= p.rows) return;
#pragma unroll
    for (int v = 0; v < kPacks; ++v) load_pack(row, v);
  };
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.y;
  int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  // The widest float32 rows fill the registers: they are not asked for ahead.
  constexpr bool kAhead = sizeof(Element) < 4 || kValues < 32;
  if (kAhead) load_row(row);
  // Rows of a block stay in step for the barriers: all leave when the first of them is beyond the end.
  for (; row - threadIdx.y < p.rows; row += stride) {
    const bool exists = row < p.rows;
    float x[kValues];
    float total = 0;
#pragma unroll
    for (int v = 0; v < kPacks; ++v) {
      int column = column0 + v * step;
      float values[kLength];
      if (!kAhead)
        asm volatile("" : "+r"(column)::"memory");  // draws of several packs at once would not fit the registers
      if (exists) {
        if (!kAhead) load_pack(row, v);
        residual[v].unpack(values);
        if (p.branch.data != nullptr) {
          float added[kLength], multipliers[kLength];
          branch[v].unpack(added);
          if (dropout.limit > 0) {
            dropout.multipliers<kLength>(row, column, p.width, multipliers);
#pragma unroll
            for (int i = 0; i < kLength; ++i) values[i] = fmaf(added[i], multipliers[i], values[i]);
          } else {
#pragma unroll
            for (int i = 0; i < kLength; ++i) values[i] += added[i];
          }
        }
        if (p.sum.data != nullptr)
          store_packed<Element, kLength, kWhole>(p.sum.at(row, column), p.width - column, p.aligned, values);
      }
#pragma unroll
      for (int i = 0; i < kLength; ++i) {
        x[v * kLength + i] = exists && column + i < p.width ? widened(narrowed<Element>(values[i])) : 0.0f;
        total += x[v * kLength + i];
      }
    }
    if (kAhead) load_row(row + stride);
    if (p.normalized.data == nullptr) continue;
    const float mean = row_sums.sum(total, 0) / static_cast<float>(p.width);
    float squares = 0;
#pragma unroll
    for (int k = 0; k < kValues; ++k) {
      const int column = column0 + k / kLength * step + k % kLength;
      const float centred = column < p.width ? x[k] - mean : 0.0f;
      squares = fmaf(centred, centred, squares);
    }
    const float variance = row_sums.sum(squares, 1) / static_cast<float>(p.width);
    const float rstd = 1.0f / sqrtf(variance + p.epsilon);
    if (!exists) continue;
    if (threadIdx.x == 0 && p.mean != nullptr) {
      p.mean[row] = mean;
      p.rstd[row] = rstd;
    }
#pragma unroll
    for (int k = 0; k < kValues; k += 4) {
      const float4 scale = own_slot(gamma, k / 4);
      const float4 shift = own_slot(beta, k / 4);
      x[k] = fmaf((x[k] - mean) * rstd, scale.x, shift.x);
      x[k + 1] = fmaf((x[k + 1] - mean) * rstd, scale.y, shift.y);
      x[k + 2] = fmaf((x[k + 2] - mean) * rstd, scale.z, shift.z);
      x[k + 3] = fmaf((x[k + 3] - mean) * rstd, scale.w, shift.w);
    }
#pragma unroll
    for (int v = 0; v < kPacks; ++v) {
      const int column = column0 + v * step;
      float values[kLength];
#pragma unroll
      for (int i = 0; i < kLength; ++i) values[i] = x[v * kLength + i];
      store_packed<Element, kLength, kWhole>(p.normalized.at(row, column), p.width - column, p.aligned, values);
    }
  }
}

}  // namespace
}  // namespace cbtm::cuda
