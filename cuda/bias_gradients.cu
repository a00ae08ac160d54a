// Bias gradients that wait for the end of a backward pass, and the kernel that adds them all.

#include <algorithm>

#include "bias_gradients.h"
#include "dispatch.h"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kAlignment = 256;

// A segment is four words of 32 bits: the first element of a vector in the memory held, its columns, and the address of
// the vector that it is added to, the lower half first.

// target[i] += held[first + i] for each segment. A segment blockIdx.y, a column a thread.
// bytes: columns * 12 of all segments.
__global__ void __launch_bounds__(kThreads)
    add_bias_gradients(const float* __restrict__ held, const int32_t* segments) {
  const int4 words = reinterpret_cast<const int4*>(segments)[blockIdx.y];
  const int64_t column = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (column >= static_cast<uint32_t>(words.y)) return;
  auto* target = reinterpret_cast<float*>(static_cast<uintptr_t>(static_cast<uint32_t>(words.w)) << 32 |
                                          static_cast<uint32_t>(words.z));
  target[column] += held[static_cast<uint32_t>(words.x) + column];
}

}  // namespace

int64_t BiasGradients::held_bytes(int64_t columns) { return round_up(columns * 4, kAlignment); }

void BiasGradients::reserve(int64_t bytes) {
  if (bytes <= memory_.bytes()) return;
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  CBTM_CUDA(cudaStreamIsCapturing(context_.stream, &capture));
  CBTM_ASSERT(capture == cudaStreamCaptureStatusNone, "memory is taken outside of captured steps only");
  if (used_ > 0) add_held();
  CBTM_CUDA(cudaStreamSynchronize(context_.stream));
  memory_ = DeviceMemory();  // freed before the larger one is asked for
  memory_ = DeviceMemory(bytes, "bias gradients");
}

TensorView BiasGradients::hold(TensorView target) {
  CBTM_ASSERT(target.dtype == DType::f32 && target.rows == 1, "a bias gradient is a float32 vector");
  const int64_t bytes = held_bytes(target.columns);
  pass_bytes_ += bytes;
  if (used_ + bytes > memory_.bytes()) {
    const int64_t wanted = pass_bytes_;  // room for the whole of the next such pass
    reserve(wanted);
    pass_bytes_ = wanted;
  }
  CBTM_ASSERT(used_ + bytes < (int64_t{1} << 33), "elements are counted in 32 bits");
  const TensorView held(memory_.data() + used_, DType::f32, 1, target.columns);
  const auto address = reinterpret_cast<uintptr_t>(target.data);
  for (const uint64_t word : {static_cast<uint64_t>(used_) / 4, static_cast<uint64_t>(target.columns),
                              static_cast<uint64_t>(address), static_cast<uint64_t>(address) >> 32})
    segments_.push_back(static_cast<int32_t>(static_cast<uint32_t>(word)));
  used_ += bytes;
  columns_max_ = std::max(columns_max_, target.columns);
  return held;
}

void BiasGradients::add_held() {
  const auto count = static_cast<unsigned>(segments_.size() / 4);
  CBTM_ASSERT(count < 65536, "segments are a grid's second extent");
  if (count > 0) {
    const dim3 grid(static_cast<unsigned>(ceil_divide(columns_max_, kThreads)), count);
    add_bias_gradients<<<grid, kThreads, 0, context_.stream>>>(reinterpret_cast<const float*>(memory_.data()),
                                                               context_.upload(segments_));
    CBTM_CUDA_LAUNCHED("add_bias_gradients");
  }
  forget();
}

void BiasGradients::forget() {
  segments_.clear();
  used_ = pass_bytes_ = columns_max_ = 0;
}

}  // namespace cbtm::cuda
