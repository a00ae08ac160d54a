// Linear layers of 1 to 8 rows: what decoding does. The weights are read once and that is all the time it takes.

#include "check.h"
#include "decode_linear.h"
#include "dispatch.h"
#include "elements.cuh"

namespace cbtm::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kRowsMax = 8;
constexpr int kChunk = 1024;  ///< columns of the activations in shared memory at a time: 4 KiB a row

struct Params {
  const void* __restrict__ input;
  int64_t input_stride;
  const void* __restrict__ weight;
  int64_t weight_stride;
  const float* __restrict__ scales;  ///< of int8 weights, one a row
  const void* __restrict__ bias;     ///< or null
  bool bias_f32;                     ///< else of the output's type
  bool relu;
  void* __restrict__ output;
  int64_t output_stride;
  int rows;
  int64_t in, out;
  bool aligned;  ///< every weight row starts at a multiple of 16 bytes
};

/// kLength weights as they lie in memory, 16 bytes of them; those beyond `available` are zero.
template <typename Weight, int kLength>
__device__ void load_weights(const Weight* __restrict__ from, int64_t available, bool aligned, uint4& word) {
  if (aligned && available >= kLength) {
    word = __ldcs(reinterpret_cast<const uint4*>(from));  // read once: not worth a place in the cache
    return;
  }
  Weight elements[kLength] = {};
#pragma unroll
  for (int i = 0; i < kLength; ++i)
    if (i < available) elements[i] = from[i];
  memcpy(&word, elements, sizeof word);
}

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

// output[r][o] = activation(scale[o] * Σ_i input[r][i] weight[o][i] + bias[o]).
//
// mapping   a warp kOutputs rows of the weights, 16 bytes of each a lane; 8 warps a block share the activations,
// widened to
//           float32, 1024 columns at a time. kRows >= rows of the input.
// bytes     out * in * weight size, once; the activations from the L2 cache once a block.
// numerics  float32; each lane sums its columns in order, lanes by a fixed tree.
template <typename Input, typename Weight, typename Output, int kRows, int kOutputs>
__global__ void __launch_bounds__(kThreads, kRows* kOutputs == 16 ? 2 : 1) decode_linear_warp_per_outputs(Params p) {
  constexpr int kLength = 16 / sizeof(Weight);
  constexpr int kSteps = kChunk / (32 * kLength);
  __shared__ float4 activations[kRows][Layout<kLength>::kVectors];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t first_output = (static_cast<int64_t>(blockIdx.x) * kWarps + warp) * kOutputs;
  const auto* input = static_cast<const Input*>(p.input);
  const auto* weight = static_cast<const Weight*>(p.weight);
  float sums[kOutputs][kRows] = {};
  for (int64_t chunk = 0; chunk < p.in; chunk += kChunk) {
    // The weights are asked for before the activations are waited for.
    uint4 words[kOutputs][kSteps];
#pragma unroll
    for (int o = 0; o < kOutputs; ++o)
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        const int64_t column = chunk + (step * 32 + lane) * kLength;
        const int64_t available = first_output + o < p.out ? p.in - column : 0;
        words[o][step] = {0, 0, 0, 0};
        if (available > 0)
          load_weights<Weight, kLength>(weight + (first_output + o) * p.weight_stride + column, available, p.aligned,
                                        words[o][step]);
      }
    __syncthreads();
#pragma unroll
    for (int row = 0; row < kRows; ++row)
      for (int column = threadIdx.x; column < kChunk; column += kThreads)
        reinterpret_cast<float*>(activations[row])[Layout<kLength>::place_of(column)] =
            row < p.rows && chunk + column < p.in ? widened(input[row * p.input_stride + chunk + column]) : 0.0f;
    __syncthreads();
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int quarter = 0; quarter < kLength / 4; ++quarter) {
        float w[kOutputs][4];
#pragma unroll
        for (int o = 0; o < kOutputs; ++o) {
          Weight elements[kLength];
          memcpy(elements, &words[o][step], sizeof(uint4));
#pragma unroll
          for (int i = 0; i < 4; ++i) w[o][i] = widened(elements[quarter * 4 + i]);
        }
#pragma unroll
        for (int row = 0; row < kRows; ++row) {
          const float4 x = activations[row][quarter * Layout<kLength>::kQuarterStride + step * 32 + lane];
#pragma unroll
          for (int o = 0; o < kOutputs; ++o)
            sums[o][row] = fmaf(w[o][3], x.w, fmaf(w[o][2], x.z, fmaf(w[o][1], x.y, fmaf(w[o][0], x.x, sums[o][row]))));
        }
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
      if (p.scales != nullptr) sum *= p.scales[column];
      if (p.bias != nullptr)
        sum += p.bias_f32 ? static_cast<const float*>(p.bias)[column]
                          : widened(static_cast<const Output*>(p.bias)[column]);
      if (p.relu) sum = fmaxf(sum, 0.0f);
      static_cast<Output*>(p.output)[row * p.output_stride + column] = narrowed<Output>(sum);
    }
  }
}

// wide[o][i] = scale[o] * weight[o][i]: for products of more rows. A block a row; 1 byte read, an element written a
// weight.
template <typename Element>
__global__ void __launch_bounds__(kThreads)
    dequantise_rows(const int8_t* __restrict__ weight, int64_t weight_stride, const float* __restrict__ scales,
                    Element* __restrict__ wide, int64_t wide_stride, int64_t in) {
  const int64_t row = blockIdx.x;
  const float scale = scales[row];
  for (int64_t i = threadIdx.x; i < in; i += kThreads)
    wide[row * wide_stride + i] = narrowed<Element>(scale * widened(weight[row * weight_stride + i]));
}

template <typename Input, typename Weight, typename Output, int kRows>
void launch_rows(Context& context, const Params& p) {
  const auto launch = [&]<int kOutputs>() {
    const int64_t blocks = ceil_divide(p.out, kWarps * kOutputs);
    decode_linear_warp_per_outputs<Input, Weight, Output, kRows, kOutputs>
        <<<static_cast<unsigned>(blocks), kThreads, 0, context.stream>>>(p);
    CBTM_CUDA_LAUNCHED("decode_linear");
  };
  // Two rows of weights a warp halve the reads of the activations, where there are enough rows for all multiprocessors.
  if (p.out >= int64_t{4} * kWarps * context.sm_count)
    launch.template operator()<2>();
  else
    launch.template operator()<1>();
}

template <typename Input, typename Weight, typename Output>
void launch_types(Context& context, const Params& p) {
  if (p.rows == 1) return launch_rows<Input, Weight, Output, 1>(context, p);
  if (p.rows == 2) return launch_rows<Input, Weight, Output, 2>(context, p);
  if (p.rows <= 4) return launch_rows<Input, Weight, Output, 4>(context, p);
  launch_rows<Input, Weight, Output, 8>(context, p);
}

}  // namespace

// Input, weight, output: float32 with any weights and float32 out; bf16 or f16 with weights of the same type or int8,
// and output of the same type or float32.
bool decode_linear_applies(const LinearForward& arguments) {
  const auto& a = arguments;
  if (a.input.rows > kRowsMax || a.activation == Activation::gelu || a.relu_mask) return false;
  const bool weights = a.weight.dtype == a.input.dtype || a.weight.dtype == DType::i8 || a.input.dtype == DType::f32;
  const bool outputs = a.output.dtype == a.input.dtype || a.output.dtype == DType::f32;
  const bool biases = !a.bias || a.bias.dtype == DType::f32 || a.bias.dtype == a.output.dtype;
  return weights && outputs && biases;
}

void decode_linear(Context& context, const LinearForward& arguments) {
  const auto& a = arguments;
  CBTM_ASSERT((a.weight.dtype == DType::i8) == static_cast<bool>(a.weight_scales), "int8 weights have scales");
  if (a.output.size() == 0) return;
  const Params p{.input = a.input.data,
                 .input_stride = a.input.row_stride,
                 .weight = a.weight.data,
                 .weight_stride = a.weight.row_stride,
                 .scales = a.weight_scales ? a.weight_scales.as<float>() : nullptr,
                 .bias = a.bias.data,
                 .bias_f32 = a.bias.dtype == DType::f32,
                 .relu = a.activation == Activation::relu,
                 .output = a.output.data,
                 .output_stride = a.output.row_stride,
                 .rows = static_cast<int>(a.input.rows),
                 .in = a.weight.columns,
                 .out = a.weight.rows,
                 .aligned = rows_aligned(a.weight, 16)};
  if (a.input.dtype == DType::f32) {
    if (a.weight.dtype == DType::i8) return launch_types<float, int8_t, float>(context, p);
    return dispatch_floating(a.weight.dtype,
                             [&]<typename Weight>() { launch_types<float, Weight, float>(context, p); });
  }
  dispatch_floating(a.input.dtype, [&]<typename Element>() {
    if constexpr (!std::is_same_v<Element, float>) {
      const bool wide = a.output.dtype == DType::f32;
      if (a.weight.dtype == DType::i8)
        return wide ? launch_types<Element, int8_t, float>(context, p)
                    : launch_types<Element, int8_t, Element>(context, p);
      wide ? launch_types<Element, Element, float>(context, p) : launch_types<Element, Element, Element>(context, p);
    }
  });
}

void dequantise(Context& context, ConstTensorView weight, ConstTensorView scales, TensorView wide) {
  if (weight.size() == 0) return;
  dispatch_floating(wide.dtype, [&]<typename Element>() {
    dequantise_rows<<<static_cast<unsigned>(weight.rows), kThreads, 0, context.stream>>>(
        weight.as<int8_t>(), weight.row_stride, scales.as<float>(), wide.as<Element>(), wide.row_stride,
        weight.columns);
  });
  CBTM_CUDA_LAUNCHED("dequantise");
}

}  // namespace cbtm::cuda
