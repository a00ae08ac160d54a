// The square sum of the gradients in a fixed order, and AdamW over flat buffers in one launch.

#include <cmath>

#include "block_sum.cuh"
#include "dispatch.h"
#include "elements.cuh"
#include "optimizer.h"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kBlocksPerMultiprocessor = 2;
constexpr int kLength = 4;  ///< float32 values of a 16-byte access

// partials[block] = sum over the block's gradients of their squares
//
// mapping   grid-stride over packs of 4; four packs under way a thread
// bytes     4 * count
// numerics  squares and sums of 16 in float32, those sums in float64: NaN, Inf and a square beyond float32 show
template <bool kAligned>
__global__ void __launch_bounds__(kThreads)
    square_sum_pieces(const float* __restrict__ gradients, int64_t count, double* __restrict__ partials) {
  constexpr int kUnroll = 4;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kThreads;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  double total = 0;
  for (int64_t first = thread * kLength; first < count; first += threads * kLength * kUnroll) {
    Packed<float, kLength> packs[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t place = first + u * threads * kLength;
      const int64_t available = count - place;
      packs[u] = load_packed<float, kLength>(gradients + place,
                                             available > kLength ? kLength : static_cast<int>(available), kAligned);
    }
    float sum = 0;
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      float values[kLength];
      packs[u].unpack(values);
#pragma unroll
      for (int i = 0; i < kLength; ++i) sum = fmaf(values[i], values[i], sum);
    }
    total += static_cast<double>(sum);
  }
  total = block_sum<kThreads>(total);
  if (threadIdx.x == 0) partials[blockIdx.x] = total;
}

// square_sum = sum of the partial sums. One block; bytes 8 * count.
__global__ void __launch_bounds__(kThreads)
    add_square_sums(const double* __restrict__ partials, int count, double* __restrict__ square_sum) {
  double total = 0;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) total += partials[i];
  total = block_sum<kThreads>(total);
  if (threadIdx.x == 0) *square_sum = total;
}

template <typename Working>
struct AdamWParams {
  float* weights;
  float* gradients;
  float* first_moments;
  float* second_moments;
  Working* working_weights;  ///< or null
  const double* square_sum;
  int64_t count, decayed_count;
  float loss_scale, clip_norm;
  float beta1, beta2;
  float decay_factor;          ///< 1 - learning_rate * weight_decay
  float step_size;             ///< learning_rate / (1 - beta1^t)
  float second_moment_factor;  ///< 1 / sqrt(1 - beta2^t)
  float epsilon;
};

// g = gradient * factor;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g²;
// w = w * decay_factor - step_size * m / (sqrt(v) * second_moment_factor + epsilon);  gradient = 0;  working = w
// factor = min(1, clip_norm / (norm + 1e-6)) / loss_scale, norm = sqrt(square_sum) / loss_scale; where the norm is not
// finite, only gradient = 0.
//
// mapping   grid-stride over packs of 4, the factor worked out by the first thread of a block
// bytes     count * (16 read, 16 written, and 2 of the working copy)
// numerics  float32, each operation rounded once as on the CPU; the factor in float64
template <bool kAligned, typename Working>
__global__ void __launch_bounds__(kThreads, 2) adamw_flat(const AdamWParams<Working> p) {
  __shared__ float shared_factor;  // NaN: nothing is updated
  if (threadIdx.x == 0) {
    const double square_sum = *p.square_sum;
    const double norm = sqrt(square_sum) / static_cast<double>(p.loss_scale);
    double factor = 1.0;
    if (p.clip_norm > 0) factor = fmin(1.0, static_cast<double>(p.clip_norm) / (norm + 1e-6));
    factor /= static_cast<double>(p.loss_scale);
    shared_factor = isfinite(square_sum) ? static_cast<float>(factor) : NAN;
  }
  __syncthreads();
  const float factor = shared_factor;
  const bool finite = !isnan(factor);
  const float rest1 = 1.0f - p.beta1, rest2 = 1.0f - p.beta2;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * kLength;
  for (int64_t place = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kLength; place < p.count;
       place += step) {
    const int available = p.count - place > kLength ? kLength : static_cast<int>(p.count - place);
    const float zeros[kLength] = {};
    if (finite) {
      float w[kLength], g[kLength], m[kLength], v[kLength];
      const auto packed_g = load_packed<float, kLength>(p.gradients + place, available, kAligned);
      const auto packed_m = load_packed<float, kLength>(p.first_moments + place, available, kAligned);
      const auto packed_v = load_packed<float, kLength>(p.second_moments + place, available, kAligned);
      const auto packed_w = load_packed<float, kLength>(p.weights + place, available, kAligned);
      packed_g.unpack(g);
      packed_m.unpack(m);
      packed_v.unpack(v);
      packed_w.unpack(w);
#pragma unroll
      for (int i = 0; i < kLength; ++i) {
        const float gradient = __fmul_rn(g[i], factor);
        m[i] = __fmaf_rn(p.beta1, m[i], __fmul_rn(rest1, gradient));
        v[i] = __fmaf_rn(p.beta2, v[i], __fmul_rn(__fmul_rn(rest2, gradient), gradient));
        const float denominator = __fmaf_rn(__fsqrt_rn(v[i]), p.second_moment_factor, p.epsilon);
        const float decayed = place + i < p.decayed_count ? __fmul_rn(w[i], p.decay_factor) : w[i];
        w[i] = __fsub_rn(decayed, __fdiv_rn(__fmul_rn(p.step_size, m[i]), denominator));
      }
      store_packed<float, kLength>(p.weights + place, available, kAligned, w);
      store_packed<float, kLength>(p.first_moments + place, available, kAligned, m);
      store_packed<float, kLength>(p.second_moments + place, available, kAligned, v);
      if (p.working_weights != nullptr)
        store_packed<Working, kLength>(p.working_weights + place, available, kAligned, w);
    }
    store_packed<float, kLength>(p.gradients + place, available, kAligned, zeros);
  }
}

int blocks_for(const Context& context, int64_t packs) {
  return static_cast<int>(std::min(ceil_divide(packs, kThreads), int64_t{kBlocksPerMultiprocessor} * context.sm_count));
}

}  // namespace

void gradient_square_sum(Context& context, ConstTensorView gradients, TensorView square_sum) {
  CBTM_ASSERT(gradients.contiguous() && square_sum.size() == 1, "gradients are one flat buffer");
  const int64_t count = gradients.size();
  if (count == 0) {
    CBTM_CUDA(cudaMemsetAsync(square_sum.as<double>(), 0, sizeof(double), context.stream));
    return;
  }
  const int blocks = blocks_for(context, ceil_divide(count, kLength));
  double* partials = static_cast<double*>(context.workspace(blocks * static_cast<int64_t>(sizeof(double))));
  dispatch_bool(rows_aligned(gradients, 16), [&]<bool kAligned>() {
    square_sum_pieces<kAligned><<<blocks, kThreads, 0, context.stream>>>(gradients.as<float>(), count, partials);
  });
  CBTM_CUDA_LAUNCHED("square_sum_pieces");
  add_square_sums<<<1, kThreads, 0, context.stream>>>(partials, blocks, square_sum.as<double>());
  CBTM_CUDA_LAUNCHED("add_square_sums");
}

void adamw(Context& context, const AdamW& arguments) {
  const int64_t count = arguments.weights.size();
  for (const ConstTensorView view :
       {ConstTensorView(arguments.weights), ConstTensorView(arguments.gradients),
        ConstTensorView(arguments.first_moments), ConstTensorView(arguments.second_moments)})
    CBTM_ASSERT(view.size() == count && view.contiguous(), "AdamW works over flat buffers of one size");
  CBTM_ASSERT(!arguments.working_weights || arguments.working_weights.size() == count, "the working copy is complete");
  if (count == 0) return;
  const double t = static_cast<double>(arguments.step);
  const double first_correction = 1.0 - std::pow(static_cast<double>(arguments.beta1), t);
  const double second_correction = 1.0 - std::pow(static_cast<double>(arguments.beta2), t);
  const DType working = arguments.working_weights ? arguments.working_weights.dtype : DType::bf16;
  dispatch_floating(working, [&]<typename Working>() {
    const AdamWParams<Working> p = {
        .weights = arguments.weights.as<float>(),
        .gradients = arguments.gradients.as<float>(),
        .first_moments = arguments.first_moments.as<float>(),
        .second_moments = arguments.second_moments.as<float>(),
        .working_weights = arguments.working_weights ? arguments.working_weights.as<Working>() : nullptr,
        .square_sum = arguments.gradient_square_sum.as<double>(),
        .count = count,
        .decayed_count = arguments.decayed_count,
        .loss_scale = arguments.loss_scale,
        .clip_norm = arguments.clip_norm,
        .beta1 = arguments.beta1,
        .beta2 = arguments.beta2,
        .decay_factor = 1.0f - arguments.learning_rate * arguments.weight_decay,
        .step_size = static_cast<float>(arguments.learning_rate / first_correction),
        .second_moment_factor = static_cast<float>(1.0 / std::sqrt(second_correction)),
        .epsilon = arguments.epsilon};
    const bool aligned = rows_aligned(arguments.weights, 16) && rows_aligned(arguments.gradients, 16) &&
                         rows_aligned(arguments.first_moments, 16) && rows_aligned(arguments.second_moments, 16) &&
                         rows_aligned(arguments.working_weights, kLength * static_cast<int64_t>(sizeof(Working)));
    dispatch_bool(aligned, [&]<bool kAligned>() {
      adamw_flat<kAligned><<<blocks_for(context, ceil_divide(count, kLength)), kThreads, 0, context.stream>>>(p);
    });
  });
  CBTM_CUDA_LAUNCHED("adamw_flat");
}

}  // namespace cbtm::cuda
