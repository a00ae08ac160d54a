// The mixture of experts' next-token distributions, or their product, and tokens drawn from it.

#include <algorithm>

#include "dispatch.h"
#include "elements.cuh"
#include "mixture.h"
#include "runtime/check.h"
#include "sample_token.h"

namespace cbtm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kExpertsMax = 240;  ///< what kernel arguments have room for

/// Logits of the experts and who uses which row of them how much.
struct Inputs {
  const void* logits[kExpertsMax];
  int32_t strides[kExpertsMax];
  const float* __restrict__ weights;  ///< [sequences, experts]
  int64_t weights_stride;
  const int32_t* __restrict__ rows;  ///< [sequences, experts], or null: the sequence's number
  int64_t rows_stride;
  int experts;
  int vocab_size;
};

template <typename Element>
__device__ const Element* logits_row(const Inputs& in, int sequence, int expert) {
  const int64_t row = in.rows == nullptr ? sequence : in.rows[sequence * in.rows_stride + expert];
  return static_cast<const Element*>(in.logits[expert]) + row * in.strides[expert];
}

/// Largest value and Σ exp(value - largest).
struct Statistics {
  float largest;
  float sum;
};
__device__ Statistics merged(Statistics a, Statistics b) {
  const float largest = fmaxf(a.largest, b.largest);
  if (largest == -INFINITY) return {largest, 0};  // nothing but -inf so far: no difference of infinities
  return {largest, a.sum * expf(a.largest - largest) + b.sum * expf(b.largest - largest)};
}

/// The statistics of all threads of a block, by a fixed tree, into `place`. At the end of a kernel.
__device__ void write_merged(Statistics own, Statistics* place) {
  __shared__ Statistics warp_results[kThreads / 32];
  for (int offset = 16; offset > 0; offset /= 2)
    own = merged(own, {__shfl_down_sync(~0u, own.largest, offset), __shfl_down_sync(~0u, own.sum, offset)});
  if (threadIdx.x % 32 == 0) warp_results[threadIdx.x / 32] = own;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int warp = 1; warp < kThreads / 32; ++warp) own = merged(own, warp_results[warp]);
  *place = own;
}

/// Of a row, from those of its splits (as many as the grid has), in order.
__device__ Statistics of_row(const Statistics* splits) {
  Statistics all = {-INFINITY, 0};
  for (unsigned split = 0; split < gridDim.x; ++split) all = merged(all, splits[split]);
  return all;
}

// partials[sequence][expert][split]: statistics of a split of the expert's logits.
//
// mapping   grid (splits, experts, sequences); a block goes through its split in 16-byte vectors, every thread with
//           statistics of its own, merged by a fixed tree.
// bytes     used rows * vocab_size * element; 8 a block written. Experts of weight 0 are not read.
template <bool kAligned, typename Element>
__global__ void __launch_bounds__(kThreads)
    expert_statistics(Inputs in, int split_size, Statistics* __restrict__ partials) {
  constexpr int kLength = 16 / sizeof(Element);
  const int expert = blockIdx.y, sequence = blockIdx.z;
  if (in.weights[sequence * in.weights_stride + expert] == 0) return;
  const Element* row = logits_row<Element>(in, sequence, expert);
  const int begin = blockIdx.x * split_size, end = min(begin + split_size, in.vocab_size);
  Statistics own = {-INFINITY, 0};
  for (int place = begin + static_cast<int>(threadIdx.x) * kLength; place < end; place += kThreads * kLength) {
    float values[kLength];
    load_packed<Element, kLength>(row + place, end - place, kAligned).unpack(values);
    float largest = own.largest;
#pragma unroll
    for (int i = 0; i < kLength; ++i)
      if (place + i < end) largest = fmaxf(largest, values[i]);
    if (largest == -INFINITY) continue;
    own.sum *= expf(own.largest - largest);
#pragma unroll
    for (int i = 0; i < kLength; ++i)
      if (place + i < end) own.sum += expf(values[i] - largest);
    own.largest = largest;
  }
  write_merged(own, partials + (static_cast<int64_t>(sequence) * in.experts + expert) * gridDim.x + blockIdx.x);
}

// out[s][v] = log Σ_j exp(logits_j[v] + shift_j),  shift_j = log weight_j - log Σ exp(logits_j): log-sum-exp over the
// experts, so that nothing underflows.
//
// mapping   grid (splits, sequences); the shifts of the experts in use are worked out by each block from the partial
//           statistics, then 16-byte vectors, the experts one after another in registers.
// bytes     used rows * vocab_size * element read (a second time: from the L2 cache where the batch is small), 4 *
//           vocab_size a sequence written.
template <bool kAligned, typename Element>
__global__ void __launch_bounds__(kThreads)
    mix_experts(Inputs in, int split_size, const Statistics* __restrict__ partials, float* __restrict__ out,
                int64_t stride) {
  constexpr int kLength = 16 / sizeof(Element);
  __shared__ const Element* used_rows[kExpertsMax];
  __shared__ float shifts[kExpertsMax];
  __shared__ int used_experts;
  const int sequence = blockIdx.y;
  for (int expert = threadIdx.x; expert < in.experts; expert += kThreads) {
    if (in.weights[sequence * in.weights_stride + expert] == 0) continue;
    const Statistics all = of_row(partials + (static_cast<int64_t>(sequence) * in.experts + expert) * gridDim.x);
    int place = 0;  // experts in use, in order
    for (int other = 0; other < expert; ++other) place += in.weights[sequence * in.weights_stride + other] != 0 ? 1 : 0;
    used_rows[place] = logits_row<Element>(in, sequence, expert);
    shifts[place] = logf(in.weights[sequence * in.weights_stride + expert]) - (all.largest + logf(all.sum));
  }
  if (threadIdx.x == 0) {
    int count = 0;
    for (int expert = 0; expert < in.experts; ++expert)
      count += in.weights[sequence * in.weights_stride + expert] != 0 ? 1 : 0;
    used_experts = count;
  }
  __syncthreads();
  const int begin = blockIdx.x * split_size, end = min(begin + split_size, in.vocab_size);
  for (int place = begin + static_cast<int>(threadIdx.x) * kLength; place < end; place += kThreads * kLength) {
    float largest[kLength], sum[kLength];
#pragma unroll
    for (int i = 0; i < kLength; ++i) {
      largest[i] = -INFINITY;
      sum[i] = 0;
    }
    for (int expert = 0; expert < used_experts; ++expert) {
      float values[kLength];
      load_packed<Element, kLength>(used_rows[expert] + place, end - place, kAligned).unpack(values);
#pragma unroll
      for (int i = 0; i < kLength; ++i) {
        const float value = values[i] + shifts[expert];
        if (value == -INFINITY) continue;
        const float smaller = expf(-fabsf(value - largest[i]));  // one exponential, whichever is larger
        sum[i] = value > largest[i] ? sum[i] * smaller + 1 : sum[i] + smaller;
        largest[i] = fmaxf(largest[i], value);
      }
    }
    float* target = out + sequence * stride + place;
#pragma unroll
    for (int i = 0; i < kLength; i += 4) {
      float results[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) results[j] = largest[i + j] + logf(sum[i + j]);
      store_packed<float, 4>(target + i, end - place - i, kAligned, results);
    }
  }
}

// out[s][v] = Σ_j weight_j (logits_j[v] - log Σ exp(logits_j)), not yet normalised.
//
// mapping   as mix_experts.
// bytes     likewise.
template <bool kAligned, typename Element>
__global__ void __launch_bounds__(kThreads)
    multiply_experts(Inputs in, int split_size, const Statistics* __restrict__ partials, float* __restrict__ out,
                     int64_t stride) {
  constexpr int kLength = 16 / sizeof(Element);
  __shared__ const Element* used_rows[kExpertsMax];
  __shared__ float shifts[kExpertsMax];  // of the experts that are used
  const int sequence = blockIdx.y;
  const float* const weights = in.weights + sequence * in.weights_stride;
  for (int expert = threadIdx.x; expert < in.experts; expert += kThreads) {
    if (weights[expert] == 0) continue;
    const Statistics all = of_row(partials + (static_cast<int64_t>(sequence) * in.experts + expert) * gridDim.x);
    used_rows[expert] = logits_row<Element>(in, sequence, expert);
    shifts[expert] = all.largest + logf(all.sum);
  }
  __syncthreads();
  const int begin = blockIdx.x * split_size, end = min(begin + split_size, in.vocab_size);
  for (int place = begin + static_cast<int>(threadIdx.x) * kLength; place < end; place += kThreads * kLength) {
    float sum[kLength];
#pragma unroll
    for (int i = 0; i < kLength; ++i) sum[i] = 0;
    for (int expert = 0; expert < in.experts; ++expert) {
      const float weight = weights[expert];
      if (weight == 0) continue;
      float values[kLength];
      load_packed<Element, kLength>(used_rows[expert] + place, end - place, kAligned).unpack(values);
#pragma unroll
      for (int i = 0; i < kLength; ++i) sum[i] += weight * (values[i] - shifts[expert]);
    }
    float* target = out + sequence * stride + place;
#pragma unroll
    for (int i = 0; i < kLength; i += 4) {
      float results[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) results[j] = sum[i + j];
      store_packed<float, 4>(target + i, end - place - i, kAligned, results);
    }
  }
}

// values[s][v] -= log Σ_u exp(values[s][u]), in place, from the statistics of the row's splits.
//
// mapping   grid (splits, sequences), a thread per value.
// bytes     8 * vocab_size per sequence: from the L2 cache where the batch is small.
__global__ void __launch_bounds__(kThreads) normalise_rows(float* __restrict__ values, int64_t stride, int vocab_size,
                                                           int split_size, const Statistics* __restrict__ partials) {
  const int sequence = blockIdx.y;
  const Statistics all = of_row(partials + static_cast<int64_t>(sequence) * gridDim.x);
  const float shift = all.largest + logf(all.sum);
  const int end = min((static_cast<int>(blockIdx.x) + 1) * split_size, vocab_size);
  for (int v = blockIdx.x * split_size + static_cast<int>(threadIdx.x); v < end; v += kThreads)
    values[sequence * stride + v] -= shift;
}

// partials[sequence][split]: statistics of the rows that multiply_experts wrote.
//
// mapping   grid (splits, sequences); a thread per value, merged by a fixed tree.
// bytes     4 * vocab_size per sequence.
__global__ void __launch_bounds__(kThreads)
    row_statistics(const float* __restrict__ values, int64_t stride, int vocab_size, int split_size,
                   Statistics* __restrict__ partials) {
  const int sequence = blockIdx.y;
  const int end = min((static_cast<int>(blockIdx.x) + 1) * split_size, vocab_size);
  Statistics own = {-INFINITY, 0};
  for (int v = blockIdx.x * split_size + static_cast<int>(threadIdx.x); v < end; v += kThreads)
    own = merged(own, {values[sequence * stride + v], 1});
  write_merged(own, partials + static_cast<int64_t>(sequence) * gridDim.x + blockIdx.x);
}

/// Splits of the vocabulary, so that few sequences fill the device too; each is a multiple of what keeps vectors whole.
/// They do not follow from the number of sequences: a sequence's sums must not depend on the others.
struct Splits {
  int count;
  int size;
};
Splits splits_for(const Context& context, int64_t vocab_size) {
  constexpr int64_t kSmallest = 2048;
  const int64_t size = round_up(std::max(kSmallest, ceil_divide(vocab_size, int64_t{4} * context.sm_count)), 64);
  return {static_cast<int>(ceil_divide(vocab_size, size)), static_cast<int>(size)};
}

Inputs inputs_of(std::span<const ConstTensorView> logits, ConstTensorView weights, ConstTensorView rows) {
  if (logits.size() > kExpertsMax)
    fail("{} experts are more than the CUDA device mixes at once ({}); use a smaller --topk", logits.size(),
         kExpertsMax);
  CBTM_ASSERT(!logits.empty() && weights.columns == static_cast<int64_t>(logits.size()), "a weight an expert");
  Inputs in{};
  for (size_t expert = 0; expert < logits.size(); ++expert) {
    in.logits[expert] = logits[expert].data;
    in.strides[expert] = static_cast<int32_t>(logits[expert].row_stride);
    in.vocab_size = static_cast<int>(logits[expert].columns);
  }
  in.weights = weights.as<float>();
  in.weights_stride = weights.row_stride;
  in.rows = rows ? rows.as<int32_t>() : nullptr;
  in.rows_stride = rows.row_stride;
  in.experts = static_cast<int>(logits.size());
  return in;
}

int64_t partials_bytes(const Inputs& in, int64_t sequences, int splits) {
  return round_up(sequences * in.experts * splits * static_cast<int64_t>(sizeof(Statistics)), 256);
}

/// All that are read in vectors, and the rows that are written.
bool all_aligned(std::span<const ConstTensorView> logits, const float* out, int64_t stride, int64_t sequences) {
  return std::ranges::all_of(logits, [](ConstTensorView one) { return rows_aligned(one, 16); }) &&
         reinterpret_cast<uintptr_t>(out) % 16 == 0 && (stride % 4 == 0 || sequences == 1);
}

void mix(Context& context, DType dtype, MixtureKind kind, const Inputs& in, bool aligned, int64_t sequences,
         Splits splits, Statistics* partials, float* out, int64_t stride) {
  const auto count = static_cast<unsigned>(sequences);
  const dim3 grid(static_cast<unsigned>(splits.count), count);
  dispatch_floating(dtype, [&]<typename Element>() {
    dispatch_bool(aligned, [&]<bool kAligned>() {
      expert_statistics<kAligned, Element>
          <<<dim3(static_cast<unsigned>(splits.count), static_cast<unsigned>(in.experts), count), kThreads, 0,
             context.stream>>>(in, splits.size, partials);
      CBTM_CUDA_LAUNCHED("expert_statistics");
      if (kind == MixtureKind::sum) {
        mix_experts<kAligned, Element><<<grid, kThreads, 0, context.stream>>>(in, splits.size, partials, out, stride);
        CBTM_CUDA_LAUNCHED("mix_experts");
      } else {
        multiply_experts<kAligned, Element>
            <<<grid, kThreads, 0, context.stream>>>(in, splits.size, partials, out, stride);
        CBTM_CUDA_LAUNCHED("multiply_experts");
      }
    });
  });
  if (kind == MixtureKind::sum) return;
  // Every expert's statistics have been read: there is room for those of the product.
  row_statistics<<<grid, kThreads, 0, context.stream>>>(out, stride, in.vocab_size, splits.size, partials);
  CBTM_CUDA_LAUNCHED("row_statistics");
  normalise_rows<<<grid, kThreads, 0, context.stream>>>(out, stride, in.vocab_size, splits.size, partials);
  CBTM_CUDA_LAUNCHED("normalise_rows");
}

}  // namespace

void mixture_log_probabilities(Context& context, const MixtureLogProbabilities& arguments) {
  const TensorView out = arguments.log_probabilities;
  if (out.size() == 0) return;
  const Inputs in = inputs_of(arguments.logits, arguments.weights, arguments.rows);
  const Splits splits = splits_for(context, in.vocab_size);
  auto* partials = static_cast<Statistics*>(context.workspace(partials_bytes(in, out.rows, splits.count)));
  const bool aligned = all_aligned(arguments.logits, out.as<float>(), out.row_stride, out.rows);
  mix(context, arguments.logits.front().dtype, arguments.kind, in, aligned, out.rows, splits, partials, out.as<float>(),
      out.row_stride);
}

void sample_mixture(Context& context, const SampleMixture& arguments) {
  const int64_t sequences = arguments.tokens.columns;
  if (sequences == 0) return;
  const Inputs in = inputs_of(arguments.logits, arguments.weights, arguments.rows);
  const Splits splits = splits_for(context, in.vocab_size);
  const int64_t partials = partials_bytes(in, sequences, splits.count);
  const int64_t stride = round_up(in.vocab_size, 4);
  char* workspace = static_cast<char*>(context.workspace(partials + sequences * stride * 4));
  auto* scores = reinterpret_cast<float*>(workspace + partials);
  const bool aligned = all_aligned(arguments.logits, scores, stride, sequences);
  mix(context, arguments.logits.front().dtype, arguments.kind, in, aligned, sequences, splits,
      reinterpret_cast<Statistics*>(workspace), scores, stride);
  sample_tokens(context.stream, {.scores = scores,
                                 .sequences = sequences,
                                 .vocab_size = in.vocab_size,
                                 .stride = stride,
                                 .uniforms = arguments.greedy ? nullptr : arguments.uniforms.as<double>(),
                                 .greedy = arguments.greedy,
                                 .filter = arguments.filter,
                                 .tokens = arguments.tokens.as<int32_t>()});
}

}  // namespace cbtm::cuda
