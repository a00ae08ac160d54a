// Output layer and cross-entropy in chunks of rows: a matrix product makes the logits, one kernel turns them into
// losses and their own gradients, two matrix products make the gradients of hidden states and table.

#include <algorithm>

#include "convert.h"
#include "dequantise.h"
#include "dispatch.h"
#include "elements.cuh"
#include "matmul.h"
#include "output_loss.h"
#include "row_sum.cuh"
#include "runtime/check.h"
#include "runtime/shared_memory_limit.h"

namespace cbtm::cuda {
namespace {

/// Rows of logits at a time, in float32; twice as many of 16 bits; a quarter of a larger micro-batch, whose activations
/// take far more. The table's gradient is read and written once a chunk: with 2048 rows of a 50272 x 768 table that is
/// a sixth of all traffic, with 8192 a twentieth.
constexpr int64_t kChunkRows = 1024;
constexpr int64_t kChunksOfLarge = 4;
constexpr int32_t kIgnored = -100;
constexpr int kThreadsMax = 1024;
constexpr int kThreadsOfTwo = 512;  ///< of a block, where a multiprocessor has two

/// The logits' rows start at multiples of 16 bytes.
int64_t padded_vocab(int64_t vocab_size) { return round_up(vocab_size, 8); }

template <typename Element>
constexpr int kPackLength = 16 / static_cast<int>(sizeof(Element));

template <typename Element>
struct CrossEntropyParams {
  Element* logits;  ///< [rows, vocab_size]
  int64_t stride;
  int64_t rows;
  int vocab_size;
  const int32_t* targets;
  float* losses;
  float gradient_scale;
};

/// exp for x <= 0. Where what is read has 8 or 11 bits of mantissa, the hardware's exponential is exact enough: its
/// error is 2^-22 and |x| * 2^-24.
template <typename Element>
__device__ float exponential(float x) {
  return sizeof(Element) == 4 ? expf(x) : __expf(x);
}

// loss[r] = log Σ_v exp(x[v] - max) + max - x[target];  x[v] = scale * (exp(x[v] - max) / Σ - [v = target]).
// A row whose target is ignored is not read: loss 0, gradients 0.
//
// mapping   a block a row, grid-stride; the row lies in shared memory, where a thread touches only the 16-byte packs
//           that it brought there itself. It asks for the next row's pack once it has written this one's gradients.
// bytes     rows * vocab_size * sizeof(Element) * (1 read, 1 written) + rows * 12
// shared    the row: 100544 bytes for OPT's vocabulary in 16 bits, which GPUs from 80 on have; where a multiprocessor
// has
//           room for two rows (90), two smaller blocks: one streams while the other waits for its sums
// numerics  float32; the maximum first, then the sum; NaN and +Inf show in the loss
template <typename Element>
__global__ void __launch_bounds__(kThreadsMax, 1) cross_entropy_in_shared(const CrossEntropyParams<Element> p) {
  constexpr int kLength = kPackLength<Element>;
  using Pack = Packed<Element, kLength>;
  __shared__ RowSums row_sums;
  extern __shared__ uint4 row_words[];
  Pack* packs = reinterpret_cast<Pack*>(row_words);
  const int first = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
  const int count = (p.vocab_size + kLength - 1) / kLength;
  const auto load = [&](int64_t row, int pack) {
    packs[pack] =
        load_packed<Element, kLength>(p.logits + row * p.stride + pack * kLength, p.vocab_size - pack * kLength, true);
  };
  int64_t row = blockIdx.x;
  int32_t target = row < p.rows ? p.targets[row] : kIgnored;
  if (target != kIgnored) {
#pragma unroll 4
    for (int pack = first; pack < count; pack += step) load(row, pack);
  }
  for (; row < p.rows; row += gridDim.x) {
    Element* logits = p.logits + row * p.stride;
    const int64_t next = row + gridDim.x;
    const int32_t next_target = next < p.rows ? p.targets[next] : kIgnored;
    float highest = -INFINITY, factor = 0;
    if (target != kIgnored) {  // the same for the whole block
      const float target_logit = widened(logits[target]);
      for (int pack = first; pack < count; pack += step) {
        float x[kLength];
        packs[pack].unpack(x);
#pragma unroll
        for (int i = 0; i < kLength; ++i)
          if (pack * kLength + i < p.vocab_size) highest = fmaxf(highest, x[i]);
      }
      highest = row_sums.max(highest, 0);
      float sum = 0;
      for (int pack = first; pack < count; pack += step) {
        float x[kLength];
        packs[pack].unpack(x);
#pragma unroll
        for (int i = 0; i < kLength; ++i)
          if (pack * kLength + i < p.vocab_size) sum += exponential<Element>(x[i] - highest);
      }
      sum = row_sums.sum(sum, 1);
      factor = p.gradient_scale / sum;
      if (threadIdx.x == 0) p.losses[row] = logf(sum) + (highest - target_logit);
    } else if (threadIdx.x == 0) {
      p.losses[row] = 0;
    }
#pragma unroll 2
    for (int pack = first; pack < count; pack += step) {
      float x[kLength] = {};
      if (target != kIgnored) {
        packs[pack].unpack(x);
#pragma unroll
        for (int i = 0; i < kLength; ++i) {
          x[i] = factor * exponential<Element>(x[i] - highest);
          if (pack * kLength + i == target) x[i] -= p.gradient_scale;
        }
      }
      store_packed<Element, kLength>(logits + pack * kLength, p.vocab_size - pack * kLength, true, x);
      if (next_target != kIgnored) load(next, pack);
    }
    target = next_target;
  }
}

// The same for rows that shared memory cannot hold, and for losses alone: the maximum and the sum of a thread in one
// pass (a sum is scaled down when the maximum grows); with gradients the row is read once more, from the second-level
// cache.
//
// mapping   a block a row, grid-stride over rows, threads over packs
// bytes     rows * vocab_size * sizeof(Element), with gradients (2 read, 1 written) times that
template <typename Element, bool kGradients>
__global__ void __launch_bounds__(kThreadsMax, 1) cross_entropy_streamed(const CrossEntropyParams<Element> p) {
  constexpr int kLength = kPackLength<Element>;
  __shared__ RowSums row_sums;
  const int step = static_cast<int>(blockDim.x) * kLength;
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    Element* logits = p.logits + row * p.stride;
    const int32_t target = p.targets[row];
    float highest = -INFINITY, factor = 0;
    if (target != kIgnored) {
      const float target_logit = widened(logits[target]);
      float sum = 0;
#pragma unroll 4
      for (int column = static_cast<int>(threadIdx.x) * kLength; column < p.vocab_size; column += step) {
        float x[kLength];
        load_packed<Element, kLength>(logits + column, p.vocab_size - column, true).unpack(x);
        float above = highest;
#pragma unroll
        for (int i = 0; i < kLength; ++i)
          if (column + i < p.vocab_size) above = fmaxf(above, x[i]);
        if (above > highest) {
          sum *= exponential<Element>(highest - above);
          highest = above;
        }
#pragma unroll
        for (int i = 0; i < kLength; ++i)
          if (column + i < p.vocab_size && x[i] != -INFINITY) sum += exponential<Element>(x[i] - highest);
      }
      const float block_highest = row_sums.max(highest, 0);
      if (highest != block_highest) sum *= exponential<Element>(highest - block_highest);
      highest = block_highest;
      sum = row_sums.sum(sum, 1);
      factor = p.gradient_scale / sum;
      if (threadIdx.x == 0) p.losses[row] = logf(sum) + (highest - target_logit);
    } else if (threadIdx.x == 0) {
      p.losses[row] = 0;
    }
    if constexpr (kGradients) {
#pragma unroll 4
      for (int column = static_cast<int>(threadIdx.x) * kLength; column < p.vocab_size; column += step) {
        float x[kLength] = {};
        if (target != kIgnored) {
          load_packed<Element, kLength>(logits + column, p.vocab_size - column, true).unpack(x);
#pragma unroll
          for (int i = 0; i < kLength; ++i) {
            x[i] = factor * exponential<Element>(x[i] - highest);
            if (column + i == target) x[i] -= p.gradient_scale;
          }
        }
        store_packed<Element, kLength>(logits + column, p.vocab_size - column, true, x);
      }
    }
  }
}

// loss_sum += Σ losses, in float64 and always in the same order. One block; bytes 4 * rows.
__global__ void __launch_bounds__(kThreadsMax)
    add_losses(const float* __restrict__ losses, int64_t rows, double* __restrict__ loss_sum) {
  __shared__ double warps[32];
  double sum = 0;
  for (int64_t row = threadIdx.x; row < rows; row += kThreadsMax) sum += static_cast<double>(losses[row]);
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_down_sync(0xffffffffu, sum, distance);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int warp = 1; warp < 32; ++warp) sum += warps[warp];
  *loss_sum += sum;
}

template <typename Element>
void cross_entropy(Context& context, const CrossEntropyParams<Element>& p, bool with_gradients) {
  const int64_t packs = ceil_divide(p.vocab_size, kPackLength<Element>);
  const int64_t row_bytes = packs * 16;
  // A block may have all shared memory of a multiprocessor but the system's own kilobyte a block.
  constexpr int64_t kSystemBytes = 1024;
  const bool two_rows = with_gradients && 2 * (row_bytes + static_cast<int64_t>(sizeof(RowSums)) + kSystemBytes) <=
                                              context.shared_bytes_per_block_max + kSystemBytes;
  const auto threads =
      static_cast<unsigned>(std::min<int64_t>(round_up(packs, 32), two_rows ? kThreadsOfTwo : kThreadsMax));
  // Blocks of a multiprocessor: as many as its 2048 threads are sure to allow with 64 registers each.
  const int64_t resident = std::max<int64_t>(1, kThreadsMax / static_cast<int64_t>(threads));
  const auto blocks = static_cast<unsigned>(std::min(p.rows, resident * context.sm_count));
  if (!with_gradients) {
    cross_entropy_streamed<Element, false><<<blocks, threads, 0, context.stream>>>(p);
  } else if (row_bytes + static_cast<int64_t>(sizeof(RowSums)) <= context.shared_bytes_per_block_max) {
    allow_shared_bytes(reinterpret_cast<const void*>(&cross_entropy_in_shared<Element>), static_cast<int>(row_bytes));
    cross_entropy_in_shared<Element><<<blocks, threads, row_bytes, context.stream>>>(p);
  } else {
    cross_entropy_streamed<Element, true><<<blocks, threads, 0, context.stream>>>(p);
  }
  CBTM_CUDA_LAUNCHED("cross_entropy");
}

/// The logits of a chunk of rows in scratch memory, and behind them the table of hidden's type where it has another.
struct LogitsPlan {
  DType dtype;
  int64_t chunk_rows, stride, logit_bytes, wide_bytes = 0;

  explicit LogitsPlan(const OutputLoss& arguments) {
    const ConstTensorView hidden = arguments.hidden, table = arguments.table;
    dtype = arguments.hidden_gradient.size() > 0 ? hidden.dtype : DType::f32;
    chunk_rows =
        std::max(kChunkRows * 4 / dtype_bytes(dtype), round_up(ceil_divide(hidden.rows, kChunksOfLarge), int64_t{128}));
    stride = padded_vocab(table.rows);
    logit_bytes = round_up(std::min(hidden.rows, chunk_rows) * stride * dtype_bytes(dtype), 256);
    if (hidden.dtype != table.dtype) wide_bytes = table.size() * dtype_bytes(hidden.dtype);
  }
};

}  // namespace

int64_t scratch_bytes(const Context&, const OutputLoss& arguments) {
  const LogitsPlan plan(arguments);
  return plan.logit_bytes + plan.wide_bytes;
}

void output_loss(Context& context, const OutputLoss& arguments) {
  const ConstTensorView hidden = arguments.hidden;
  ConstTensorView table = arguments.table;
  const int64_t vocab_size = table.rows;
  const bool with_gradients = static_cast<bool>(arguments.hidden_gradient);
  const ConstTensorView scales = arguments.table_scales;
  const bool widen = hidden.dtype != table.dtype;  // inference: int8, or the GPU does not compute in the weights' type
  CBTM_ASSERT(!widen || ((hidden.dtype == DType::f32 || scales) && !with_gradients),
              "hidden states and table have one type");
  CBTM_ASSERT((table.dtype == DType::i8) == static_cast<bool>(scales), "an int8 table has scales");
  CBTM_ASSERT(vocab_size < (int64_t{1} << 30), "columns are counted in 32 bits");
  if (hidden.rows == 0) return;
  const auto [dtype, chunk_rows, stride, logit_bytes, wide_bytes] = LogitsPlan(arguments);
  char* scratch = static_cast<char*>(context.workspace(logit_bytes + wide_bytes));
  if (widen) {
    const TensorView wide(scratch + logit_bytes, hidden.dtype, vocab_size, table.columns);
    if (scales)
      dequantise(context, table, scales, wide);
    else
      convert(context, wide, table);
    table = wide;
  }
  float* losses = arguments.losses.as<float>();
  const int32_t* targets = arguments.targets.as<int32_t>();

  for (int64_t first = 0; first < hidden.rows; first += chunk_rows) {
    const int64_t count = std::min(chunk_rows, hidden.rows - first);
    const ConstTensorView inputs = hidden.row_range(first, count);
    const TensorView logits(scratch, dtype, count, vocab_size, stride);
    matmul(context, {.a = inputs, .b = table, .transpose_b = true, .c = logits});
    dispatch_floating(dtype, [&]<typename Element>() {
      cross_entropy<Element>(context,
                             {.logits = logits.as<Element>(),
                              .stride = stride,
                              .rows = count,
                              .vocab_size = static_cast<int>(vocab_size),
                              .targets = targets + first,
                              .losses = losses + first,
                              .gradient_scale = arguments.gradient_scale},
                             with_gradients);
    });
    if (!with_gradients) continue;
    matmul(context, {.a = logits, .b = table, .c = arguments.hidden_gradient.row_range(first, count)});
    if (arguments.table_gradient)
      matmul(context, {.a = logits, .b = inputs, .transpose_a = true, .c = arguments.table_gradient, .beta = 1});
  }
  if (!arguments.loss_sum) return;
  add_losses<<<1, kThreadsMax, 0, context.stream>>>(losses, hidden.rows, arguments.loss_sum.as<double>());
  CBTM_CUDA_LAUNCHED("add_losses");
}

}  // namespace cbtm::cuda
