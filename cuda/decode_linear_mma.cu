// Linear layers of a few rows of 16-bit activations: what decoding does. The weights are read once, and that is all the
// time it takes; products are on the tensor cores, so that neither float32 arithmetic nor the activations stand in the
// way of the reading.

#include <algorithm>

#include "decode_linear.h"
#include "dispatch.h"
#include "elements.cuh"
#include "mma.cuh"
#include "runtime/check.h"
#include "widen_pairs.cuh"

namespace cbtm::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kTileOutputs = 16;   ///< rows of the weights in a tile: the rows of an mma's left operand
constexpr int kTileRows = 8;       ///< rows of activations in a tile: its columns
constexpr int kLanes = 4;          ///< lanes that share a row of the weights, 16 bytes of it each
constexpr int kAsked = 4;          ///< tiles and steps whose weights a warp asks for together, before it uses the last
constexpr int kScaleGroups = 128;  ///< groups of int4 weights whose scales are in shared memory at a time
constexpr int kScalePitchMax = kScaleGroups + 4;
constexpr int kSumPitch = kTileOutputs + 4;  ///< so that a warp's sums do, written by mma's lanes or read by rows

struct Params {
  const void* __restrict__ input;
  int64_t input_stride;
  bool input_aligned;  ///< every row starts at a multiple of 16 bytes
  const void* __restrict__ weight;
  int64_t weight_stride;
  bool weight_aligned;              ///< as input_aligned
  const void* __restrict__ scales;  ///< float32, one a row of int8 weights; float16, one a group of int4 weights
  int64_t scales_stride;            ///< of int4 weights
  bool scales_aligned;              ///< rows of them start at multiples of 8 bytes
  const void* __restrict__ bias;    ///< or null
  bool bias_f32, output_f32;        ///< else of the input's type
  bool relu;
  void* __restrict__ output;
  int64_t output_stride;
  int rows;
  int64_t in, out;
};

/// int4 weights: 16 bytes are a group (device.h, kInt4Group).
struct Int4 {};

/// Columns of a row that lie in 16 bytes, what a lane takes in a step.
template <typename Weight>
constexpr int kLaneColumns = 16 / static_cast<int>(sizeof(Weight));
template <>
constexpr int kLaneColumns<Int4> = static_cast<int>(kInt4Group);
template <typename Weight>
constexpr int kStepColumns = kLanes* kLaneColumns<Weight>;

template <typename Element>
using TensorElement = std::conditional_t<std::is_same_v<Element, bf16>, __nv_bfloat16, __half>;

/// A lane's 16 bytes of a row of the weights, from `column` on; zeros beyond the matrix.
template <typename Weight>
__device__ uint4 load_weights(const Params& p, int64_t row, int64_t column) {
  if (row >= p.out || column >= p.in) return {0, 0, 0, 0};
  if constexpr (std::is_same_v<Weight, Int4>) {
    // Read once: not worth a place in the cache.
    return __ldcs(reinterpret_cast<const uint4*>(static_cast<const uint8_t*>(p.weight) + row * p.weight_stride +
                                                 column / kInt4Group * kInt4GroupBytes));
  } else {
    const Weight* from = static_cast<const Weight*>(p.weight) + row * p.weight_stride + column;
    if (p.weight_aligned && p.in - column >= kLaneColumns<Weight>) return __ldcs(reinterpret_cast<const uint4*>(from));
    const int available = static_cast<int>(min(p.in - column, int64_t{kLaneColumns<Weight>}));
    return load_packed<Weight, kLaneColumns<Weight>>(from, available, /*aligned=*/false).word;
  }
}

/// kLength activations of a row, in pairs; zeros beyond the matrix.
template <typename Element, int kLength>
__device__ void load_pairs(const Params& p, int row, int64_t column, uint32_t (&pairs)[kLength / 2]) {
  const bool exist = row < p.rows && column < p.in;
  const Element* from = static_cast<const Element*>(p.input) + (exist ? row * p.input_stride + column : 0);
  const int available = exist ? static_cast<int>(min(p.in - column, int64_t{kLength})) : 0;
  const auto loaded = load_packed<Element, kLength>(from, available, p.input_aligned);
  memcpy(pairs, &loaded.word, sizeof pairs);
}

/// words[i] of lane t of four becomes words[t] of lane i.
__device__ void transpose_among_four(uint32_t (&words)[4], int t) {
#pragma unroll
  for (int distance = 1; distance <= 2; distance *= 2) {
    const bool upper = (t & distance) != 0;
#pragma unroll
    for (int low = 0; low < 4; ++low) {
      if ((low & distance) != 0) continue;
      const int high = low + distance;
      const uint32_t received = __shfl_xor_sync(~0u, upper ? words[low] : words[high], distance);
      (upper ? words[low] : words[high]) = received;
    }
  }
}

/// Activations of lane t's columns of a step, those beside its 8 weights of 16 bits.
template <typename Element>
__device__ void load_activations(const Params& p, int row, int64_t column, int t, uint32_t (&pairs)[4]) {
  load_pairs<Element, 8>(p, row, column + 8 * t, pairs);
}
/// The same beside 16 weights of 8 bits. Two lanes load neighbouring 16 bytes, the even lane's 16 columns and then the
/// odd one's, and exchange halves: a lane's own 32 bytes, in two accesses, would be the same sectors twice.
template <typename Element>
__device__ void load_activations(const Params& p, int row, int64_t column, int t, uint32_t (&pairs)[8]) {
  const int64_t first = column + t / 2 * 32 + t % 2 * 8;
  uint32_t even[4], odd[4];
  load_pairs<Element, 8>(p, row, first, even);
  load_pairs<Element, 8>(p, row, first + 16, odd);
  const bool is_odd = t % 2 == 1;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t received = __shfl_xor_sync(~0u, is_odd ? even[i] : odd[i], 1);
    pairs[i] = is_odd ? received : even[i];
    pairs[4 + i] = is_odd ? odd[i] : received;
  }
}

template <int kRowTiles>
using Sums = float[kRowTiles][4];

/// sums += a tile's step of weights times the activations: k are a lane's own columns, wherever mma has them, and the
/// same ones left and right.
template <typename Element, typename Weight, int kTiles, int kRowTiles>
__device__ void multiply_step(const Params& p, int64_t column, const uint4 (&words)[kTiles][2],
                              Sums<kRowTiles> (&sums)[kTiles]) {
  constexpr int kPairs = kLaneColumns<Weight> / 2;
  const int g = static_cast<int>(threadIdx.x) % 32 / kLanes, t = static_cast<int>(threadIdx.x) % kLanes;
  uint32_t activations[kRowTiles][kPairs];
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) load_activations<Element>(p, kTileRows * r + g, column, t, activations[r]);
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const uint32_t low[4] = {words[tile][0].x, words[tile][0].y, words[tile][0].z, words[tile][0].w};
    const uint32_t high[4] = {words[tile][1].x, words[tile][1].y, words[tile][1].z, words[tile][1].w};
#pragma unroll
    for (int i = 0; i < kPairs; i += 2) {
      uint32_t left[4];
      if constexpr (std::is_same_v<Weight, int8_t>) {
        uint32_t low_pairs[2], high_pairs[2];
        widen_int8<Element>(low[i / 2], low_pairs);
        widen_int8<Element>(high[i / 2], high_pairs);
        left[0] = low_pairs[0], left[1] = high_pairs[0], left[2] = low_pairs[1], left[3] = high_pairs[1];
      } else {
        left[0] = low[i], left[1] = high[i], left[2] = low[i + 1], left[3] = high[i + 1];
      }
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r)
        mma::multiply<TensorElement<Element>>(sums[tile][r], left, activations[r][i], activations[r][i + 1]);
    }
  }
}

/// The same for int4 weights. A group's sum is scaled before it joins, so the lanes of a row first exchange words: each
/// then has 4 bytes of each of the step's four groups, that is columns 4 t to 4 t + 3 and, in the upper halves of the
/// bytes, those 16 further. `scales` are those of the tiles' rows, `pitch` apart, at the step's first group.
template <typename Element, int kTiles, int kRowTiles>
__device__ void multiply_int4_step(const Params& p, int64_t column, const uint4 (&words)[kTiles][2], const f16* scales,
                                   int pitch, Sums<kRowTiles> (&sums)[kTiles]) {
  const int g = static_cast<int>(threadIdx.x) % 32 / kLanes, t = static_cast<int>(threadIdx.x) % kLanes;
  uint32_t codes[kTiles][2][4];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint4 word = words[tile][half];
      codes[tile][half][0] = word.x, codes[tile][half][1] = word.y;
      codes[tile][half][2] = word.z, codes[tile][half][3] = word.w;
      transpose_among_four(codes[tile][half], t);
    }
#pragma unroll
  for (int group = 0; group < kLanes; ++group) {
    uint32_t activations[kRowTiles][2][2];  // of columns 4 t on, and of those 16 further
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
      for (int part = 0; part < 2; ++part)
        load_pairs<Element, 4>(p, kTileRows * r + g, column + group * kInt4Group + 16 * part + 4 * t,
                               activations[r][part]);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      float group_sums[kRowTiles][4] = {};
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        uint32_t low[2], high[2];
        widen_int4<Element>(codes[tile][0][group] >> 4 * part & 0x0f0f0f0fu, low);
        widen_int4<Element>(codes[tile][1][group] >> 4 * part & 0x0f0f0f0fu, high);
        const uint32_t left[4] = {low[0], high[0], low[1], high[1]};
#pragma unroll
        for (int r = 0; r < kRowTiles; ++r)
          mma::multiply<TensorElement<Element>>(group_sums[r], left, activations[r][part][0], activations[r][part][1]);
      }
      const f16* row_scales = scales + (kTileOutputs * tile + g) * pitch + group;
      const float low_scale = widened(row_scales[0]), high_scale = widened(row_scales[8 * pitch]);
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          sums[tile][r][e] = fmaf(e < 2 ? low_scale : high_scale, group_sums[r][e], sums[tile][r][e]);
    }
  }
}

/// Scales from row to row in shared memory: one row after another, as they are written, where the 8 rows that are read
/// together then lie in different banks, that is where a row is not a multiple of 4 times 8 bytes long.
__device__ int scale_pitch(int64_t groups) {
  const int quads = static_cast<int>((min(groups, int64_t{kScaleGroups}) + 3) / 4);
  return 4 * (quads % 4 == 0 ? quads + 1 : quads);
}

/// The block copies the scales of kRows rows, kScaleGroups groups from `group` on; zeros beyond the matrix.
template <int kRows>
__device__ void load_scales(const Params& p, int64_t first_row, int64_t group, int pitch, f16* shared) {
  const int64_t groups = (p.in + kInt4Group - 1) / kInt4Group;
  const int quads = static_cast<int>((min(groups - group, int64_t{kScaleGroups}) + 3) / 4);
  for (int place = static_cast<int>(threadIdx.x); place < kRows * quads; place += kThreads) {
    const int row = place / quads, quad = place % quads * 4;
    const bool exists = first_row + row < p.out;
    const f16* from =
        static_cast<const f16*>(p.scales) + (exists ? (first_row + row) * p.scales_stride + group + quad : 0);
    const int available = exists ? static_cast<int>(min(groups - group - quad, int64_t{4})) : 0;
    const uint2 loaded = load_packed<f16, 4>(from, available, p.scales_aligned).word;
    // As one number, for a uint2 may be stored as two words, each with a place between its neighbours.
    *reinterpret_cast<uint64_t*>(shared + row * pitch + quad) = uint64_t{loaded.y} << 32 | loaded.x;
  }
}

/// Element i of a vector of float32 or else of Element.
template <typename Element>
__device__ float element_at(const void* vector, bool is_f32, int64_t i) {
  return is_f32 ? static_cast<const float*>(vector)[i] : widened(static_cast<const Element*>(vector)[i]);
}

/// Whether two blocks' registers fit a multiprocessor, with none spilled.
template <typename Element, typename Weight>
constexpr bool two_blocks_fit(int tiles, int row_tiles) {
  return row_tiles == 1 && tiles <= (std::is_same_v<Weight, Element> ? 4 : std::is_same_v<Weight, int8_t> ? 2 : 1);
}

// output[r][o] = activation(scale[o] * Σ_i input[r][i] weight[o][i] + bias[o]), or of int4 weights
//                activation(Σ_group scale[o][group] * Σ_i input[r][i] weight[o][i] + bias[o]).
//
// mapping   a block 16 kTiles rows of the weights and all rows of the input, at most 8 kRowTiles; its 8 warps take
//           steps along the columns in turn, 64 bytes of each row of the weights: 16 bytes a lane, as two of an mma's
//           four left registers a row. The next steps' weights are asked for before these are used. At the end
//           the warps' sums are added through shared memory.
// bytes     out * in * weight size and the scales, once; rows * in * 2 of the activations a block, from the cache.
// numerics  products exact, float32 sums: a warp's in the tensor cores' order, then the warps' in turn. A row's result
//           does not depend on the other rows, nor on kTiles and kRowTiles.
template <typename Element, typename Weight, int kTiles, int kRowTiles>
__global__ void __launch_bounds__(kThreads, two_blocks_fit<Element, Weight>(kTiles, kRowTiles) ? 2 : 1)
    decode_linear_mma(Params p) {
  constexpr bool kInt4 = std::is_same_v<Weight, Int4>;
  constexpr int kDepth = kAsked / kTiles;
  constexpr int kStepsOfScales = kScaleGroups * static_cast<int>(kInt4Group) / kStepColumns<Int4>;
  static_assert(kStepsOfScales % (kDepth * kWarps) == 0, "scales last for whole rounds");
  __shared__ float warp_sums[kWarps][kTiles][kTileRows][kSumPitch];
  __shared__ alignas(8) f16 scales[kInt4 ? kTiles * kTileOutputs * kScalePitchMax : 1];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int g = lane / kLanes, t = lane % kLanes;
  const int64_t first_output = static_cast<int64_t>(blockIdx.x) * kTiles * kTileOutputs;
  const int64_t steps = (p.in + kStepColumns<Weight> - 1) / kStepColumns<Weight>;
  const int pitch = kInt4 ? scale_pitch((p.in + kInt4Group - 1) / kInt4Group) : 0;
  const auto ask = [&](int64_t step, uint4(&words)[kTiles][2]) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        words[tile][half] = load_weights<Weight>(p, first_output + tile * kTileOutputs + half * 8 + g,
                                                 step * kStepColumns<Weight> + t * kLaneColumns<Weight>);
  };
  Sums<kRowTiles> sums[kTiles] = {};
  uint4 asked[kDepth][kTiles][2];
#pragma unroll
  for (int d = 0; d < kDepth; ++d) ask(warp + d * kWarps, asked[d]);
  for (int64_t round = 0; round < steps; round += kDepth * kWarps) {
    if constexpr (kInt4)
      if (round % kStepsOfScales == 0) {
        __syncthreads();
        load_scales<kTiles * kTileOutputs>(p, first_output, round * kLanes, pitch, scales);
        __syncthreads();
      }
    uint4 words[kDepth][kTiles][2];
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
        for (int half = 0; half < 2; ++half) words[d][tile][half] = asked[d][tile][half];
      ask(round + warp + (kDepth + d) * kWarps, asked[d]);
    }
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      const int64_t step = round + warp + d * kWarps;
      if (step >= steps) break;
      const int64_t column = step * kStepColumns<Weight>;
      if constexpr (kInt4)
        multiply_int4_step<Element, kTiles, kRowTiles>(p, column, words[d], scales + step % kStepsOfScales * kLanes,
                                                       pitch, sums);
      else
        multiply_step<Element, Weight, kTiles, kRowTiles>(p, column, words[d], sums);
    }
  }
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
    if (r > 0) __syncthreads();
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int e = 0; e < 4; ++e) warp_sums[warp][tile][2 * t + e % 2][g + e / 2 * 8] = sums[tile][r][e];
    __syncthreads();
    for (int place = static_cast<int>(threadIdx.x); place < kTiles * kTileRows * kTileOutputs; place += kThreads) {
      // A warp has rows i and i + 4, whose banks differ.
      const int tile = place / (kTileRows * kTileOutputs), output = place % kTileOutputs;
      const int tile_row = place / 32 % 4 + place / kTileOutputs % 2 * 4, row = r * kTileRows + tile_row;
      const int64_t column = first_output + tile * kTileOutputs + output;
      if (row >= p.rows || column >= p.out) continue;
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum += warp_sums[w][tile][tile_row][output];
      if constexpr (std::is_same_v<Weight, int8_t>) sum *= static_cast<const float*>(p.scales)[column];
      if (p.bias != nullptr) sum += element_at<Element>(p.bias, p.bias_f32, column);
      if (p.relu) sum = fmaxf(sum, 0.0f);
      if (p.output_f32)
        static_cast<float*>(p.output)[row * p.output_stride + column] = sum;
      else
        static_cast<Element*>(p.output)[row * p.output_stride + column] = narrowed<Element>(sum);
    }
  }
}

template <typename Element, typename Weight, int kTiles, int kRowTiles>
void launch(Context& context, const Params& p) {
  const auto blocks = static_cast<unsigned>(ceil_divide(p.out, kTiles * kTileOutputs));
  decode_linear_mma<Element, Weight, kTiles, kRowTiles><<<blocks, kThreads, 0, context.stream>>>(p);
  CBTM_CUDA_LAUNCHED("decode_linear_mma");
}

/// As many rows of the weights a block as leave a block for every second multiprocessor: the activations are read once
/// a block, and with 32 KiB of weights asked for in each, half of the multiprocessors keep the memory busy.
int tiles_for(int64_t out, int sm_count, int tiles_max) {
  for (int tiles = tiles_max; tiles > 1; tiles /= 2)
    if (2 * ceil_divide(out, tiles * kTileOutputs) >= sm_count) return tiles;
  return 1;
}

template <typename Element, typename Weight>
void launch_tiles(Context& context, const Params& p) {
  constexpr bool kQuantised = !std::is_same_v<Weight, Element>;
  if (p.rows <= kTileRows) {
    switch (tiles_for(p.out, context.sm_count, 4)) {
      case 4: return launch<Element, Weight, 4, 1>(context, p);
      case 2: return launch<Element, Weight, 2, 1>(context, p);
      default: return launch<Element, Weight, 1, 1>(context, p);
    }
  }
  if constexpr (kQuantised) {
    const bool two_tiles = tiles_for(p.out, context.sm_count, 2) == 2;
    if (p.rows <= 2 * kTileRows)
      return two_tiles ? launch<Element, Weight, 2, 2>(context, p) : launch<Element, Weight, 1, 2>(context, p);
    return two_tiles ? launch<Element, Weight, 2, 4>(context, p) : launch<Element, Weight, 1, 4>(context, p);
  }
}

}  // namespace

bool decode_linear_mma_applies(const LinearForward& arguments, int compute_capability) {
  const auto& a = arguments;
  const bool quantised = a.int8_weights() || a.int4_weights();
  if (a.input.dtype == DType::f32 || (!quantised && a.weight.dtype != a.input.dtype)) return false;
  if (a.input.dtype == DType::bf16 && compute_capability < 80) return false;  // no such tensor cores
  return a.input.rows <= (quantised ? 4 * kTileRows : kTileRows);
}

void decode_linear_mma(Context& context, const LinearForward& arguments) {
  const auto& a = arguments;
  const Params p{.input = a.input.data,
                 .input_stride = a.input.row_stride,
                 .input_aligned = rows_aligned(a.input, 16),
                 .weight = a.weight.data,
                 .weight_stride = a.weight.row_stride,
                 .weight_aligned = rows_aligned(a.weight, 16),
                 .scales = a.weight_scales.data,
                 .scales_stride = a.weight_scales.row_stride,
                 .scales_aligned = rows_aligned(a.weight_scales, 8),
                 .bias = a.bias.data,
                 .bias_f32 = a.bias.dtype == DType::f32,
                 .output_f32 = a.output.dtype == DType::f32,
                 .relu = a.activation == Activation::relu,
                 .output = a.output.data,
                 .output_stride = a.output.row_stride,
                 .rows = static_cast<int>(a.input.rows),
                 .in = a.input.columns,
                 .out = a.weight.rows};
  const auto launch_element = [&]<typename Element>() {
    if (a.int8_weights()) return launch_tiles<Element, int8_t>(context, p);
    if (a.int4_weights()) return launch_tiles<Element, Int4>(context, p);
    launch_tiles<Element, Element>(context, p);
  };
  if (a.input.dtype == DType::bf16) return launch_element.operator()<bf16>();
  launch_element.operator()<f16>();
}

}  // namespace cbtm::cuda
