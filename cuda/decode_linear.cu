// Linear layers of 1 to 8 rows: what decoding does. The weights are read once and that is all the time it takes.

#include "decode_linear.h"
#include "dispatch.h"
#include "elements.cuh"
#include "runtime/check.h"

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
  const void* __restrict__ scales;  ///< float32, one a row of int8 weights; float16, one a group of int4 weights
  int64_t scales_stride;            ///< of int4 weights
  const void* __restrict__ bias;    ///< or null
  bool bias_f32;                    ///< else of the output's type
  bool relu;
  void* __restrict__ output;
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
// mapping   a warp kOutputs rows of the weights, 16 bytes of each a lane; 8 warps a block share the activations,
// widened to
//           float32, 1024 columns at a time. kRows >= rows of the input.
// bytes     out * in * weight size and the scales, once; the activations from the L2 cache once a block.
// numerics  float32; each lane sums its columns (of a group, then the groups) in order, lanes by a fixed tree.
template <typename Input, typename Weight, typename Output, int kRows, int kOutputs>
__global__ void __launch_bounds__(kThreads, kRows* kOutputs == 16 ? 2 : 1) decode_linear_warp_per_outputs(Params p) {
  using Weights = Stored<Weight>;
  constexpr int kLength = Weights::kLength;
  constexpr int kSteps = kChunk / (32 * kLength);
  __shared__ float4 activations[kRows][Layout<kLength>::kVectors];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t first_output = (static_cast<int64_t>(blockIdx.x) * kWarps + warp) * kOutputs;
  const auto* input = static_cast<const Input*>(p.input);
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
            row < p.rows && chunk + column < p.in ? widened(input[row * p.input_stride + chunk + column]) : 0.0f;
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
      if constexpr (std::is_same_v<Weight, int8_t>) sum *= static_cast<const float*>(p.scales)[column];
      if (p.bias != nullptr)
        sum += p.bias_f32 ? static_cast<const float*>(p.bias)[column]
                          : widened(static_cast<const Output*>(p.bias)[column]);
      if (p.relu) sum = fmaxf(sum, 0.0f);
      static_cast<Output*>(p.output)[row * p.output_stride + column] = narrowed<Output>(sum);
    }
  }
}

/// Eight columns of a row, by accesses of 16 bytes where `aligned`.
template <typename Element>
__device__ void store_eight(Element* target, int available, bool aligned, const float (&values)[8]) {
  constexpr int kLength = 16 / sizeof(Element);
#pragma unroll
  for (int i = 0; i < 8; i += kLength) {
    float part[kLength];
#pragma unroll
    for (int k = 0; k < kLength; ++k) part[k] = values[i + k];
    store_packed<Element, kLength>(target + i, available - i, aligned, part);
  }
}

// wide[o][i] = scale[o] * weight[o][i]: for products of more rows. A block a row; 1 byte read, an element written a
// weight; 8 of them a thread where rows allow.
template <typename Element>
__global__ void __launch_bounds__(kThreads)
    dequantise_rows(const int8_t* __restrict__ weight, int64_t weight_stride, const float* __restrict__ scales,
                    Element* __restrict__ wide, int64_t wide_stride, bool wide_aligned, int64_t in) {
  const int64_t row = blockIdx.x;
  const float scale = scales[row];
  const bool weight_aligned = (reinterpret_cast<uintptr_t>(weight) | static_cast<uintptr_t>(weight_stride)) % 8 == 0;
  for (int64_t i = int64_t{8} * threadIdx.x; i < in; i += 8 * kThreads) {
    const int available = static_cast<int>(min(int64_t{8}, in - i));
    float values[8];
    load_packed<int8_t, 8>(weight + row * weight_stride + i, available, weight_aligned).unpack(values);
#pragma unroll
    for (int k = 0; k < 8; ++k) values[k] *= scale;
    store_eight(wide + row * wide_stride + i, available, wide_aligned, values);
  }
}

// wide[o][i] = scale[o][group of i] * value[o][i], of int4 weights. A block a row; a thread takes half a group: 8
// bytes, its low halves and its high halves are 8 columns each. Bytes: 18 read a group, 32 elements written.
template <typename Element>
__global__ void __launch_bounds__(kThreads)
    dequantise_int4_rows(const uint8_t* __restrict__ weight, int64_t weight_stride, const f16* __restrict__ scales,
                         int64_t scales_stride, Element* __restrict__ wide, int64_t wide_stride, bool wide_aligned,
                         int in) {
  const int64_t row = blockIdx.x;
  for (int half = static_cast<int>(threadIdx.x); half * 16 < in; half += kThreads) {
    const int group = half / 2, column = group * static_cast<int>(kInt4Group) + half % 2 * 8;
    const float scale = widened(scales[row * scales_stride + group]);
    const uint2 codes = *reinterpret_cast<const uint2*>(weight + row * weight_stride + half * 8);
#pragma unroll
    for (int high = 0; high < 2; ++high) {
      float values[8];
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const uint32_t code = (k < 4 ? codes.x : codes.y) >> (8 * (k % 4) + 4 * high) & 15u;
        values[k] = scale * static_cast<float>(static_cast<int>(code) - 8);
      }
      store_eight(wide + row * wide_stride + column + 16 * high, in - column - 16 * high, wide_aligned, values);
    }
  }
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

// Input, weight, output: float32 with any weights and float32 out; bf16 or f16 with weights of the same type, int8 or
// int4, and output of the same type or float32.
bool decode_linear_applies(const LinearForward& arguments) {
  const auto& a = arguments;
  if (a.input.rows > kRowsMax || a.activation == Activation::gelu || a.relu_mask) return false;
  const bool weights =
      a.weight.dtype == a.input.dtype || a.int8_weights() || a.int4_weights() || a.input.dtype == DType::f32;
  const bool outputs = a.output.dtype == a.input.dtype || a.output.dtype == DType::f32;
  const bool biases = !a.bias || a.bias.dtype == DType::f32 || a.bias.dtype == a.output.dtype;
  return weights && outputs && biases;
}

void decode_linear(Context& context, const LinearForward& arguments) {
  const auto& a = arguments;
  CBTM_ASSERT(a.weights_fit(), "weights fit the input, and their scales");
  CBTM_ASSERT(!a.int4_weights() || rows_aligned(a.weight, 16), "groups of int4 weights are read as 16 bytes");
  if (a.output.size() == 0) return;
  const Params p{.input = a.input.data,
                 .input_stride = a.input.row_stride,
                 .weight = a.weight.data,
                 .weight_stride = a.weight.row_stride,
                 .scales = a.weight_scales.data,
                 .scales_stride = a.weight_scales.row_stride,
                 .bias = a.bias.data,
                 .bias_f32 = a.bias.dtype == DType::f32,
                 .relu = a.activation == Activation::relu,
                 .output = a.output.data,
                 .output_stride = a.output.row_stride,
                 .rows = static_cast<int>(a.input.rows),
                 .in = a.input.columns,
                 .out = a.weight.rows,
                 .aligned = rows_aligned(a.weight, 16)};
  if (a.input.dtype == DType::f32) {
    if (a.int8_weights()) return launch_types<float, int8_t, float>(context, p);
    if (a.int4_weights()) return launch_types<float, Int4, float>(context, p);
    return dispatch_floating(a.weight.dtype,
                             [&]<typename Weight>() { launch_types<float, Weight, float>(context, p); });
  }
  dispatch_floating(a.input.dtype, [&]<typename Element>() {
    if constexpr (!std::is_same_v<Element, float>) {
      const bool wide = a.output.dtype == DType::f32;
      if (a.int8_weights())
        return wide ? launch_types<Element, int8_t, float>(context, p)
                    : launch_types<Element, int8_t, Element>(context, p);
      if (a.int4_weights())
        return wide ? launch_types<Element, Int4, float>(context, p) : launch_types<Element, Int4, Element>(context, p);
      wide ? launch_types<Element, Element, float>(context, p) : launch_types<Element, Element, Element>(context, p);
    }
  });
}

void dequantise(Context& context, ConstTensorView weight, ConstTensorView scales, TensorView wide) {
  if (weight.size() == 0) return;
  const auto rows = static_cast<unsigned>(weight.rows);
  const bool wide_aligned = rows_aligned(wide, 16);
  dispatch_floating(wide.dtype, [&]<typename Element>() {
    if (weight.dtype == DType::i8)
      dequantise_rows<<<rows, kThreads, 0, context.stream>>>(weight.as<int8_t>(), weight.row_stride, scales.as<float>(),
                                                             wide.as<Element>(), wide.row_stride, wide_aligned,
                                                             wide.columns);
    else
      dequantise_int4_rows<<<rows, kThreads, 0, context.stream>>>(
          weight.as<uint8_t>(), weight.row_stride, scales.as<f16>(), scales.row_stride, wide.as<Element>(),
          wide.row_stride, wide_aligned, static_cast<int>(wide.columns));
  });
  CBTM_CUDA_LAUNCHED("dequantise");
}

}  // namespace cbtm::cuda
