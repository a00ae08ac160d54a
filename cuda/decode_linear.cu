// Linear layers of 1 to 8 rows of float32, and the choice between this kernel and that of tensor cores.

#include "decode_linear.h"
#include "dispatch.h"
#include "elements.cuh"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kRowsMax = static_cast<int>(decode_linear_rows_max(DType::f32));
constexpr int kChunk = 1024;  ///< columns of the activations in shared memory at a time: 4 KiB a row

struct Params {
  const float* __restrict__ input;
  int64_t input_stride;
  const void* __restrict__ weight;
  int64_t weight_stride;
  const void* __restrict__ scales;  ///< float32, one a row of int8 weights; float16, one a group of int4 weights
  int64_t scales_stride;            ///< of int4 weights
  const float* __restrict__ bias;   ///< or null
  bool relu;
  float* __restrict__ output;
  int64_t output_stride;
  int rows;
  int64_t in, out;
  bool aligned;  ///< every weight row starts at a multiple of 16 bytes
};

/// Weights as they lie in memory, 16 bytes at a time.
template <typename Weight>
struct Stored {
  static constexpr int kLength = 16 / sizeof(Weight);  ///< weights in 16 bytes
  static constexpr bool kGroupScales = false;

  /// Those of columns `column` on of a row; those that do not exist are zero.
  static __device__ uint4 load(const Params& p, int64_t row, int64_t column) {
    const Weight* from = static_cast<const Weight*>(p.weight) + row * p.weight_stride + column;
    if (p.aligned && p.in - column >= kLength)
      return __ldcs(reinterpret_cast<const uint4*>(from));  // read once: not worth a place in the cache
    Weight elements[kLength] = {};
#pragma unroll
    for (int i = 0; i < kLength; ++i)
      if (column + i < p.in) elements[i] = from[i];
    uint4 word;
    memcpy(&word, elements, sizeof word);
    return word;
  }
  static __device__ void unpack(const uint4& word, int quarter, float (&values)[4]) {
    Weight elements[kLength];
    memcpy(elements, &word, sizeof(uint4));
#pragma unroll
    for (int i = 0; i < 4; ++i) values[i] = widened(elements[quarter * 4 + i]);
  }
};

/// int4 weights: 16 bytes are a group (device.h, kInt4Group).
struct Int4 {};
template <>
struct Stored<Int4> {
  static constexpr int kLength = static_cast<int>(kInt4Group);
  static constexpr bool kGroupScales = true;

  static __device__ uint4 load(const Params& p, int64_t row, int64_t column) {
    return __ldcs(reinterpret_cast<const uint4*>(static_cast<const uint8_t*>(p.weight) + row * p.weight_stride +
                                                 column / kLength * kInt4GroupBytes));
  }
  static __device__ float scale(const Params& p, int64_t row, int64_t column) {
    return widened(static_cast<const f16*>(p.scales)[row * p.scales_stride + column / kLength]);
  }
  static __device__ void unpack(const uint4& word, int quarter, float (&values)[4]) {
    const uint32_t words[4] = {word.x, word.y, word.z, word.w};
    const uint32_t codes = words[quarter % 4] >> (quarter < 4 ? 0 : 4) & 0x0f0f0f0fu;
    // The float of bits 0x4b000000 + code is 2^23 + code.
#pragma unroll
    for (int i = 0; i < 4; ++i)
      values[i] = __uint_as_float(__byte_perm(codes, 0x4b000000u, 0x7650u + static_cast<unsigned>(i))) - (0x1p23f + 8);
  }
};

/// How a chunk of a row of the activations lies in shared memory, in vectors of four: those that lanes read together
/// side by side, quarter by quarter of the kLength columns that belong to one lane. The quarters are apart by so much
/// more that 32 columns one after another, which is how they are written, touch all banks.
template <int kLength>
struct Layout {
  static constexpr int kQuarters = kLength / 4;
  static constexpr int kQuarterStride = kChunk / kLength + 8 / kQuarters;
  static constexpr int kVectors = kQuarters * kQuarterStride;

  static __device__ int place_of(int column) {
    const int group = column / kLength, within = column % kLength;
    return (within / 4 * kQuarterStride + group) * 4 + within % 4;
  }
};

// output[r][o] = activation(scale[o] * Σ_i input[r][i] weight[o][i] + bias[o]), or of int4 weights
//                activation(Σ_group scale[o][group] * Σ_i input[r][i] weight[o][i] + bias[o]).
//
// mapping   a warp kOutputs rows of the weights, 16 bytes of each a lane; 8 warps a block share the activations, 1024
//           columns at a time. kRows >= rows of the input.
// bytes     out * in * weight size and the scales, once; the activations from the L2 cache once a block.
// numerics  float32; each lane sums its columns (of a group, then the groups) in order, lanes by a fixed tree.
template <typename Weight, int kRows, int kOutputs>
__global__ void __launch_bounds__(kThreads, kRows* kOutputs == 16 ? 2 : 1) decode_linear_warp_per_outputs(Params p) {
  using Weights = Stored<Weight>;
  constexpr int kLength = Weights::kLength;
  constexpr int kSteps = kChunk / (32 * kLength);
  __shared__ float4 activations[kRows][Layout<kLength>::kVectors];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t first_output = (static_cast<int64_t>(blockIdx.x) * kWarps + warp) * kOutputs;
  float sums[kOutputs][kRows] = {};
  for (int64_t chunk = 0; chunk < p.in; chunk += kChunk) {
    // The weights are asked for before the activations are waited for.
    uint4 words[kOutputs][kSteps];
    float scales[kOutputs][kSteps];  // of groups
#pragma unroll
    for (int o = 0; o < kOutputs; ++o)
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        const int64_t column = chunk + (step * 32 + lane) * kLength;
        words[o][step] = {0, 0, 0, 0};
        scales[o][step] = 0;
        if (first_output + o >= p.out || column >= p.in) continue;
        words[o][step] = Weights::load(p, first_output + o, column);
        if constexpr (Weights::kGroupScales) scales[o][step] = Weights::scale(p, first_output + o, column);
      }
    __syncthreads();
#pragma unroll
    for (int row = 0; row < kRows; ++row)
      for (int column = threadIdx.x; column < kChunk; column += kThreads)
        reinterpret_cast<float*>(activations[row])[Layout<kLength>::place_of(column)] =
            row < p.rows && chunk + column < p.in ? p.input[row * p.input_stride + chunk + column] : 0.0f;
    __syncthreads();
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      float group_sums[kOutputs][kRows] = {};
      float(&step_sums)[kOutputs][kRows] = Weights::kGroupScales ? group_sums : sums;
#pragma unroll
      for (int quarter = 0; quarter < kLength / 4; ++quarter) {
        float w[kOutputs][4];
#pragma unroll
        for (int o = 0; o < kOutputs; ++o) Weights::unpack(words[o][step], quarter, w[o]);
#pragma unroll
        for (int row = 0; row < kRows; ++row) {
          const float4 x = activations[row][quarter * Layout<kLength>::kQuarterStride + step * 32 + lane];
#pragma unroll
          for (int o = 0; o < kOutputs; ++o)
            step_sums[o][row] =
                fmaf(w[o][3], x.w, fmaf(w[o][2], x.z, fmaf(w[o][1], x.y, fmaf(w[o][0], x.x, step_sums[o][row]))));
        }
      }
      if constexpr (Weights::kGroupScales) {
#pragma unroll
        for (int o = 0; o < kOutputs; ++o)
#pragma unroll
          for (int row = 0; row < kRows; ++row) sums[o][row] = fmaf(scales[o][step], group_sums[o][row], sums[o][row]);
      }
    }
  }
#pragma unroll
  for (int o = 0; o < kOutputs; ++o) {
    const int64_t column = first_output + o;
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      float sum = sums[o][row];
      for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
      if (lane != row || row >= p.rows || column >= p.out) continue;  // lane r writes row r
      // One rounding in every instance: the compiler does not choose.
      const float scale = std::is_same_v<Weight, int8_t> ? static_cast<const float*>(p.scales)[column] : 1.0f;
      sum = fmaf(sum, scale, p.bias != nullptr ? p.bias[column] : 0.0f);
      if (p.relu) sum = fmaxf(sum, 0.0f);
      p.output[row * p.output_stride + column] = sum;
    }
  }
}

template <typename Weight, int kRows>
void launch_rows(Context& context, const Params& p) {
  const auto launch = [&]<int kOutputs>() {
    const int64_t blocks = ceil_divide(p.out, kWarps * kOutputs);
    decode_linear_warp_per_outputs<Weight, kRows, kOutputs>
        <<<static_cast<unsigned>(blocks), kThreads, 0, context.stream>>>(p);
    CBTM_CUDA_LAUNCHED("decode_linear");
  };
  // Two rows of weights a warp halve the reads of the activations, where there are enough rows for all multiprocessors.
  if (p.out >= int64_t{4} * kWarps * context.sm_count)
    launch.template operator()<2>();
  else
    launch.template operator()<1>();
}

template <typename Weight>
void launch_weights(Context& context, const Params& p) {
  if (p.rows == 1) return launch_rows<Weight, 1>(context, p);
  if (p.rows == 2) return launch_rows<Weight, 2>(context, p);
  if (p.rows <= 4) return launch_rows<Weight, 4>(context, p);
  launch_rows<Weight, 8>(context, p);
}

}  // namespace

// Input, weight, output: float32 with any weights and float32 out; bf16 or f16 with weights of the same type, int8 or
// int4, and output of the same type or float32.
bool decode_linear_applies(const LinearForward& arguments, int compute_capability) {
  const auto& a = arguments;
  if (is_gelu(a.activation) || a.saved) return false;
  const bool outputs = a.output.dtype == a.input.dtype || a.output.dtype == DType::f32;
  const bool biases = !a.bias || a.bias.dtype == DType::f32 || a.bias.dtype == a.output.dtype;
  if (!outputs || !biases) return false;
  return a.input.dtype == DType::f32 ? a.input.rows <= kRowsMax
                                     : decode_linear_mma_applies(arguments, compute_capability);
}

void decode_linear(Context& context, const LinearForward& arguments) {
  const auto& a = arguments;
  CBTM_ASSERT(a.weights_fit(), "weights fit the input, and their scales");
  CBTM_ASSERT(!a.int4_weights() || rows_aligned(a.weight, 16), "groups of int4 weights are read as 16 bytes");
  CBTM_ASSERT(a.input.rows <= decode_linear_rows_max(a.input.dtype), "few rows");
  if (a.output.size() == 0) return;
  if (a.input.dtype != DType::f32) return decode_linear_mma(context, arguments);
  const Params p{.input = a.input.as<float>(),
                 .input_stride = a.input.row_stride,
                 .weight = a.weight.data,
                 .weight_stride = a.weight.row_stride,
                 .scales = a.weight_scales.data,
                 .scales_stride = a.weight_scales.row_stride,
                 .bias = a.bias ? a.bias.as<float>() : nullptr,
                 .relu = a.activation == Activation::relu,
                 .output = a.output.as<float>(),
                 .output_stride = a.output.row_stride,
                 .rows = static_cast<int>(a.input.rows),
                 .in = a.input.columns,
                 .out = a.weight.rows,
                 .aligned = rows_aligned(a.weight, 16)};
  if (a.int8_weights()) return launch_weights<int8_t>(context, p);
  if (a.int4_weights()) return launch_weights<Int4>(context, p);
  dispatch_floating(a.weight.dtype, [&]<typename Weight>() { launch_weights<Weight>(context, p); });
}

}  // namespace cbtm::cuda
