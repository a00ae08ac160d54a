// Residual + dropout + layer normalisation, forward and backward: one pass over the rows each, with the row in
// registers, and a small second kernel for the gradients of gamma and beta.

#include "dropout.cuh"
#include "layernorm.h"
#include "layernorm_forward.cuh"
#include "row_sum.cuh"
#include "row_threads.cuh"
#include "runtime/check.h"
#include "runtime/shared_memory_limit.h"

namespace cbtm::cuda {
namespace {

template <typename Element>
struct BackwardParams {
  Rows<const Element> normalized_gradient, incoming, sum;  // `incoming` may be the memory of `sum_gradient`
  Rows<Element> sum_gradient, branch_gradient;
  const float* mean;
  const float* rstd;
  AnyVector gamma;
  float* partials;  // [blocks][2][width]: gradients of gamma and beta; or null
  DropoutDraw dropout;
  int64_t rows;
  int width, padded_width;
  bool aligned;  ///< every row starts at a multiple of 16 bytes
};

// unit = (sum - mean) * rstd,  g = normalized_gradient * gamma,
// sum_gradient = incoming + rstd * (g - mean(g) - unit * mean(g * unit));  branch_gradient = sum_gradient *
// multipliers; the gradients of gamma and beta are the sums over rows of normalized_gradient * unit and of
// normalized_gradient. Without normalized_gradient: sum_gradient = incoming.
//
// mapping   as the forward kernel; a thread adds up gamma's and beta's gradients of its columns over all its rows, then
//           the block's rows in order, and writes one partial sum a block.
// bytes     rows * width * sizeof(Element) * (3 read, 2 written) + rows * 8 + blocks * width * 8
// shared    gamma in float32, at the end the block's partial sums: 8 * padded_width
// numerics  float32; dropout multiplies the sum's gradient before it is rounded
template <typename Element, int kValues, bool kWhole>
__global__ void __launch_bounds__(kRowBlockThreads, kValues == 8 ? 2 : 1)
    residual_layernorm_backward_rows(const BackwardParams<Element> p) {
  constexpr int kLength = kPackLength<Element>;
  constexpr int kPacks = kValues / kLength;
  // Where float32 rows do not fit the registers beside the sums of gamma and beta they are read again, from the cache.
  constexpr int kReads = sizeof(Element) == 4 && kValues != 16 ? 2 : 1;
  using Pack = Packed<Element, kLength>;
  extern __shared__ __align__(16) float vectors[];
  __shared__ RowSums row_sums;
  const DropoutDraw dropout = p.dropout.placed();
  const int threads = static_cast<int>(blockDim.x);
  const int column0 = static_cast<int>(threadIdx.x) * kLength;
  const int step = threads * kLength;
  const bool normalizes = p.normalized_gradient.data != nullptr;
  float* gamma = vectors;
  if (normalizes) {
    stage_vector<kLength>(p.gamma, 1, p.width, p.padded_width, gamma);
    __syncthreads();
  }

  float gamma_sums[kValues] = {}, beta_sums[kValues] = {};
  int turn = 0;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; row - threadIdx.y < p.rows;
       row += static_cast<int64_t>(gridDim.x) * blockDim.y) {
    const bool exists = row < p.rows;
    Pack gradient[kPacks], sum[kPacks], incoming[kPacks];
    const auto load = [&](const Rows<const Element>& rows, int64_t from, int column) {
      return load_packed<Element, kLength, kWhole>(rows.at(from, column), p.width - column, p.aligned);
    };
    float mean = 0, rstd = 0;
    float2 means = {0, 0};
    // Asked for before the sums are waited for.
    if (kReads == 1 && exists && p.incoming.data != nullptr) {
#pragma unroll
      for (int v = 0; v < kPacks; ++v) incoming[v] = load(p.incoming, row, column0 + v * step);
    }
    if (exists && normalizes) {
      mean = p.mean[row];
      rstd = p.rstd[row];
#pragma unroll
      for (int v = 0; v < kPacks; ++v) {
        gradient[v] = load(p.normalized_gradient, row, column0 + v * step);
        sum[v] = load(p.sum, row, column0 + v * step);
      }
#pragma unroll
      for (int v = 0; v < kPacks; ++v) {
        float dy[kLength], x[kLength];
        gradient[v].unpack(dy);
        sum[v].unpack(x);
#pragma unroll
        for (int i = 0; i < kLength; ++i) {
          const int k = v * kLength + i;
          const float4 scale = own_slot(gamma, k / 4);
          const float unit = (x[i] - mean) * rstd;
          const float g = dy[i] * (k % 4 == 0 ? scale.x : k % 4 == 1 ? scale.y : k % 4 == 2 ? scale.z : scale.w);
          gamma_sums[k] = fmaf(dy[i], unit, gamma_sums[k]);
          beta_sums[k] += dy[i];
          means.x += g;
          means.y = fmaf(g, unit, means.y);
        }
      }
    }
    if (normalizes) {
      means = row_sums.sums(means, turn);
      means.x /= static_cast<float>(p.width);
      means.y /= static_cast<float>(p.width);
      turn ^= 1;
    }
    if (!exists) continue;
#pragma unroll(kReads == 2 ? 1 : kPacks)
    for (int v = 0; v < kPacks; ++v) {
      const int column = column0 + v * step;
      float out[kLength] = {};
      constexpr bool kAgain = kReads == 2;  // what is read again has no place in the arrays
      if (p.incoming.data != nullptr) (kAgain ? load(p.incoming, row, column) : incoming[v]).unpack(out);
      if (normalizes) {
        float dy[kLength], x[kLength];
        (kAgain ? load(p.normalized_gradient, row, column) : gradient[v]).unpack(dy);
        (kAgain ? load(p.sum, row, column) : sum[v]).unpack(x);
#pragma unroll
        for (int i = 0; i < kLength; ++i) {
          const int k = v * kLength + i;
          const float4 scale = own_slot(gamma, k / 4);
          const float unit = (x[i] - mean) * rstd;
          const float g = dy[i] * (k % 4 == 0 ? scale.x : k % 4 == 1 ? scale.y : k % 4 == 2 ? scale.z : scale.w);
          out[i] = fmaf(rstd, fmaf(-unit, means.y, g - means.x), out[i]);
        }
      }
      if (p.sum_gradient.data != nullptr)
        store_packed<Element, kLength, kWhole>(p.sum_gradient.at(row, column), p.width - column, p.aligned, out);
      if (p.branch_gradient.data == nullptr) continue;
      if (dropout.limit > 0) {
        float multipliers[kLength];
        dropout.multipliers<kLength>(row, column, p.width, multipliers);
#pragma unroll
        for (int i = 0; i < kLength; ++i) out[i] *= multipliers[i];
      }
      store_packed<Element, kLength, kWhole>(p.branch_gradient.at(row, column), p.width - column, p.aligned, out);
    }
  }

  if (p.partials == nullptr) return;
  float* gamma_row = vectors;
  float* beta_row = vectors + p.padded_width;
  for (int y = 0; y < static_cast<int>(blockDim.y); ++y) {
    __syncthreads();
    if (static_cast<int>(threadIdx.y) != y) continue;
#pragma unroll
    for (int k = 0; k < kValues; k += 4) {
      float4 a = {gamma_sums[k], gamma_sums[k + 1], gamma_sums[k + 2], gamma_sums[k + 3]};
      float4 b = {beta_sums[k], beta_sums[k + 1], beta_sums[k + 2], beta_sums[k + 3]};
      if (y > 0) {
        const float4 before_a = own_slot(gamma_row, k / 4), before_b = own_slot(beta_row, k / 4);
        a = {before_a.x + a.x, before_a.y + a.y, before_a.z + a.z, before_a.w + a.w};
        b = {before_b.x + b.x, before_b.y + b.y, before_b.z + b.z, before_b.w + b.w};
      }
      own_slot(gamma_row, k / 4) = a;
      own_slot(beta_row, k / 4) = b;
    }
  }
  __syncthreads();
  float* partial = p.partials + static_cast<int64_t>(blockIdx.x) * 2 * p.width;
  for (int column = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x); column < p.width;
       column += static_cast<int>(blockDim.x * blockDim.y)) {
    const int slot = slot_of_column<kLength>(column, threads);
    partial[column] = gamma_row[slot];
    partial[p.width + column] = beta_row[slot];
  }
}

constexpr int kPartialColumns = 32;
constexpr int kPartialLanes = 16;

// gamma_gradient[c] += sum over blocks of partials[block][0][c], beta_gradient likewise of partials[block][1][c].
//
// mapping   a block has 32 columns of the 2 * width; its 16 lanes take every 16th partial sum each, then the lanes are
//           added in order
// bytes     blocks * width * 8 + width * 16
__global__ void __launch_bounds__(kPartialColumns* kPartialLanes)
    add_layernorm_partials(const float* __restrict__ partials, int blocks, int width, float* gamma_gradient,
                           float* beta_gradient) {
  __shared__ float lanes[kPartialLanes][kPartialColumns];
  const int column = static_cast<int>(blockIdx.x) * kPartialColumns + static_cast<int>(threadIdx.x);
  float sum = 0;
  if (column < 2 * width) {
#pragma unroll 4
    for (int block = static_cast<int>(threadIdx.y); block < blocks; block += kPartialLanes)
      sum += partials[static_cast<int64_t>(block) * 2 * width + column];
  }
  lanes[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= 2 * width) return;
  for (int lane = 1; lane < kPartialLanes; ++lane) sum += lanes[lane][threadIdx.x];
  if (column < width) {
    if (gamma_gradient != nullptr) gamma_gradient[column] += sum;
  } else {
    if (beta_gradient != nullptr) beta_gradient[column - width] += sum;
  }
}

/// Asks for shared memory above what every kernel may have. Throws Error where the device has less.
template <typename Kernel>
void allow_row_bytes(const Context& context, Kernel* kernel, int64_t bytes, int64_t width) {
  const auto* address = reinterpret_cast<const void*>(kernel);
  if (bytes <= kSharedBytesByDefault || bytes <= shared_bytes_allowed(address)) return;
  cudaFuncAttributes attributes;
  CBTM_CUDA(cudaFuncGetAttributes(&attributes, kernel));
  if (bytes + static_cast<int64_t>(attributes.sharedSizeBytes) > context.shared_bytes_per_block_max)
    fail(
        "layer normalisation of {} columns needs {} bytes of shared memory a block, but this GPU has {}; take a model "
        "with a smaller hidden size, or --device cpu",
        width, bytes, context.shared_bytes_per_block_max);
  allow_shared_bytes(address, static_cast<int>(bytes));
}

void check_width(int64_t width) {
  if (width > kLayerNormWidthMax)
    fail("layer normalisation on a GPU takes up to {} columns, but the hidden size is {}; use --device cpu",
         kLayerNormWidthMax, width);
}

/// Calls function.operator()<Element, kValues, kWhole>(plan).
template <typename Function>
void dispatch_rows(const Context& context, DType dtype, int64_t rows, int64_t width, bool aligned,
                   const Function& function) {
  dispatch_floating(dtype, [&]<typename Element>() {
    const RowThreads plan = RowThreads::plan(rows, width, kPackLength<Element>, context.sm_count);
    dispatch_values(plan.values, [&]<int kValues>() {
      dispatch_bool(aligned && width % kPackLength<Element> == 0,
                    [&]<bool kWhole>() { function.template operator()<Element, kValues, kWhole>(plan); });
    });
  });
}

}  // namespace

void residual_layernorm_forward(Context& context, const ResidualLayerNormForward& arguments) {
  const ConstTensorView residual = arguments.residual;
  CBTM_ASSERT(arguments.sum || !arguments.branch, "a new sum is written somewhere");
  CBTM_ASSERT(static_cast<bool>(arguments.mean) == static_cast<bool>(arguments.rstd), "statistics come in pairs");
  if (residual.size() == 0) return;
  check_width(residual.columns);
  const bool aligned = rows_aligned(residual, 16) && rows_aligned(arguments.branch, 16) &&
                       rows_aligned(arguments.sum, 16) && rows_aligned(arguments.normalized, 16);
  dispatch_rows(context, residual.dtype, residual.rows, residual.columns, aligned,
                [&]<typename Element, int kValues, bool kWhole>(const RowThreads& plan) {
                  ForwardParams<Element> p{};
                  p.residual = Rows<const Element>(residual);
                  p.branch = Rows<const Element>(arguments.branch);
                  p.sum = Rows<Element>(arguments.sum);
                  p.normalized = Rows<Element>(arguments.normalized);
                  p.gamma = AnyVector(arguments.gamma);
                  p.beta = AnyVector(arguments.beta);
                  p.mean = arguments.mean ? arguments.mean.template as<float>() : nullptr;
                  p.rstd = arguments.rstd ? arguments.rstd.template as<float>() : nullptr;
                  if (arguments.branch && arguments.dropout.active()) p.dropout = DropoutDraw(arguments.dropout);
                  p.rows = residual.rows;
                  p.width = static_cast<int>(residual.columns);
                  p.padded_width = static_cast<int>(plan.padded_width());
                  p.aligned = aligned;
                  p.epsilon = arguments.epsilon;
                  const auto kernel = residual_layernorm_forward_rows<Element, kValues, kWhole>;
                  const int64_t shared_bytes = 2 * 4 * plan.padded_width();
                  allow_row_bytes(context, kernel, shared_bytes, residual.columns);
                  kernel<<<plan.blocks, dim3(plan.threads, plan.rows), shared_bytes, context.stream>>>(p);
                });
  CBTM_CUDA_LAUNCHED("residual_layernorm_forward_rows");
}

int64_t scratch_bytes(const Context& context, const ResidualLayerNormBackward& arguments) {
  const TensorView rows = arguments.sum_gradient;
  if (rows.size() == 0 || arguments.normalized_gradient.size() == 0) return 0;
  if (arguments.gamma_gradient.size() == 0 && arguments.beta_gradient.size() == 0) return 0;
  check_width(rows.columns);
  return int64_t{2} * 4 * RowThreads::blocks_max(rows.rows, context.sm_count) * rows.columns;
}

void residual_layernorm_backward(Context& context, const ResidualLayerNormBackward& arguments) {
  const TensorView sum_gradient = arguments.sum_gradient;
  const int64_t width = sum_gradient.columns;
  const bool wants_vectors = arguments.normalized_gradient && (arguments.gamma_gradient || arguments.beta_gradient);
  CBTM_ASSERT(arguments.normalized_gradient || arguments.sum_gradient_in, "a gradient comes from somewhere");
  if (sum_gradient.size() == 0) return;
  check_width(width);
  const bool aligned = rows_aligned(arguments.normalized_gradient, 16) && rows_aligned(arguments.sum_gradient_in, 16) &&
                       rows_aligned(arguments.sum, 16) && rows_aligned(sum_gradient, 16) &&
                       rows_aligned(arguments.branch_gradient, 16);
  // What would be overwritten with itself, or by the branch's gradient, is not written.
  const bool unchanged = !arguments.normalized_gradient && arguments.sum_gradient_in.data == sum_gradient.data;
  const bool overwritten = arguments.branch_gradient.data == sum_gradient.data;
  int blocks = 0;
  float* partials = nullptr;
  dispatch_rows(context, sum_gradient.dtype, sum_gradient.rows, width, aligned,
                [&]<typename Element, int kValues, bool kWhole>(const RowThreads& plan) {
                  blocks = plan.blocks;
                  if (wants_vectors)
                    partials = static_cast<float*>(context.workspace(scratch_bytes(context, arguments)));
                  BackwardParams<Element> p{};
                  p.normalized_gradient = Rows<const Element>(arguments.normalized_gradient);
                  p.incoming = Rows<const Element>(arguments.sum_gradient_in);
                  p.sum = Rows<const Element>(arguments.sum);
                  if (!unchanged && !overwritten) p.sum_gradient = Rows<Element>(sum_gradient);
                  p.branch_gradient = Rows<Element>(arguments.branch_gradient);
                  if (arguments.normalized_gradient) {
                    p.mean = arguments.mean.template as<float>();
                    p.rstd = arguments.rstd.template as<float>();
                  }
                  p.gamma = AnyVector(arguments.gamma);
                  p.partials = partials;
                  if (arguments.branch_gradient && arguments.dropout.active())
                    p.dropout = DropoutDraw(arguments.dropout);
                  p.rows = sum_gradient.rows;
                  p.width = static_cast<int>(width);
                  p.padded_width = static_cast<int>(plan.padded_width());
                  p.aligned = aligned;
                  const auto kernel = residual_layernorm_backward_rows<Element, kValues, kWhole>;
                  const int64_t shared_bytes = 2 * 4 * plan.padded_width();
                  allow_row_bytes(context, kernel, shared_bytes, width);
                  kernel<<<plan.blocks, dim3(plan.threads, plan.rows), shared_bytes, context.stream>>>(p);
                });
  CBTM_CUDA_LAUNCHED("residual_layernorm_backward_rows");
  if (!wants_vectors) return;
  add_layernorm_partials<<<static_cast<unsigned>(ceil_divide(2 * width, kPartialColumns)),
                           dim3(kPartialColumns, kPartialLanes), 0, context.stream>>>(
      partials, blocks, static_cast<int>(width),
      arguments.gamma_gradient ? arguments.gamma_gradient.as<float>() : nullptr,
      arguments.beta_gradient ? arguments.beta_gradient.as<float>() : nullptr);
  CBTM_CUDA_LAUNCHED("add_layernorm_partials");
}

}  // namespace cbtm::cuda
