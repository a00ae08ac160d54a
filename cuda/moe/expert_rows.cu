// Tokens to the sorted rows of their experts and back: copies and weighted sums of rows, bound by memory.

#include <algorithm>

#include "dispatch.h"
#include "dropout.cuh"
#include "elements.cuh"
#include "gather.h"
#include "moe/expert_rows.h"
#include "moe/routing_view.cuh"
#include "row_sum.cuh"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kBlocksPerMultiprocessor = 8;  // 64 warps, as many as a multiprocessor holds

/// Blocks for kernels in which a warp takes a row at a time.
unsigned row_blocks(const Context& context, int64_t rows) {
  return static_cast<unsigned>(
      std::min<int64_t>(ceil_divide(rows, kWarps), int64_t{kBlocksPerMultiprocessor} * context.sm_count));
}
__device__ int first_row() { return static_cast<int>(blockIdx.x * kWarps + threadIdx.y); }
__device__ int row_step() { return static_cast<int>(gridDim.x) * kWarps; }

/// What the kernels below read and write: `sorted` [2 * rows, width] and `plain` [rows, width].
template <typename Element>
struct Rows {
  const Element* sorted;  ///< no restrict: a gradient may be written to the same memory
  int64_t sorted_stride;
  Element* sorted_gradient;
  int64_t sorted_gradient_stride;
  Element* out;
  int64_t out_stride;
  const Element* __restrict__ out_gradient;
  int64_t out_gradient_stride;
  float* __restrict__ weight_gradients;
  int64_t weight_gradients_stride;
  int width;
  RoutingView routing;
};

template <typename Element>
constexpr int kLength = 16 / static_cast<int>(sizeof(Element));

/// A token's choices.
struct Choices {
  int row[kExpertsPerToken];  ///< -1: dropped
  float weight[kExpertsPerToken];

  __device__ Choices(const RoutingView& routing, int token) {
#pragma unroll
    for (int j = 0; j < kExpertsPerToken; ++j) {
      row[j] = routing.sorted_row[token * routing.sorted_row_stride + j];
      weight[j] = routing.weights[token * routing.weights_stride + j];
    }
  }
};

/// What a lane takes of both choices' rows from `column` on; zeros of a dropped one.
template <bool kAligned, typename Element>
__device__ __forceinline__ void load_choices(const Rows<Element>& p, const Choices& choices, int column, int available,
                                             Packed<Element, kLength<Element>> (&loaded)[kExpertsPerToken]) {
#pragma unroll
  for (int j = 0; j < kExpertsPerToken; ++j) {
    loaded[j] = {};
    if (choices.row[j] >= 0)
      loaded[j] = load_packed<Element, kLength<Element>>(p.sorted + choices.row[j] * p.sorted_stride + column,
                                                         available, kAligned);
  }
}

/// The draws of the two choices' dropouts.
struct ChoiceDropouts {
  DropoutDraw draws[kExpertsPerToken];

  __device__ explicit ChoiceDropouts(const DropoutDraw& draw) {
    draws[0] = draws[1] = draw.placed();
    ++draws[1].site;
  }
  template <int kCount>
  __device__ void multiply(int j, int token, int column, int width, float (&values)[kCount]) const {
    float multipliers[kCount];
    draws[j].multipliers(token, column, width, multipliers);
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] *= multipliers[i];
  }
};

// out[s] = Σ_j weight[s][j] * drop_j(sorted[sorted_row[s][j]]) over kept choices, or without kWeighted
// out[s] = (or +=) Σ_j sorted[sorted_row[s][j]]
//
// mapping   one warp per token, 16 bytes per lane, grid-stride over tokens
// bytes     rows * width * element * (2 read, 1 written, 1 more read if it is added to), nothing twice
// numerics  float32, the first choice first, one rounding
template <bool kWeighted, bool kDropout, bool kAligned, typename Element>
__global__ void __launch_bounds__(32 * kWarps)
    sum_choices(const Rows<Element> p, const DropoutDraw dropout, const bool accumulate) {
  constexpr int kCount = kLength<Element>;
  const ChoiceDropouts dropouts(dropout);
  for (int token = first_row(); token < p.routing.rows; token += row_step()) {
    const Choices choices(p.routing, token);
#pragma unroll 2
    for (int column = static_cast<int>(threadIdx.x) * kCount; column < p.width; column += 32 * kCount) {
      const int available = min(kCount, p.width - column);
      Packed<Element, kCount> loaded[kExpertsPerToken];
      load_choices<kAligned>(p, choices, column, available, loaded);
      float sums[kCount] = {};
#pragma unroll
      for (int j = 0; j < kExpertsPerToken; ++j) {
        if (choices.row[j] < 0) continue;
        float values[kCount];
        loaded[j].unpack(values);
        if (kDropout) dropouts.multiply(j, token, column, p.width, values);
#pragma unroll
        for (int i = 0; i < kCount; ++i)
          sums[i] = kWeighted ? fmaf(choices.weight[j], values[i], sums[i]) : sums[i] + values[i];
      }
      Element* const out = p.out + token * p.out_stride + column;
      if (!kWeighted && accumulate) {
        float before[kCount];
        load_packed<Element, kCount>(out, available, kAligned).unpack(before);
#pragma unroll
        for (int i = 0; i < kCount; ++i) sums[i] += before[i];
      }
      store_packed<Element, kCount>(out, available, kAligned, sums);
    }
  }
}

// weight_gradients[s][j] = Σ_c out_gradient[s][c] * drop_j(sorted[sorted_row[s][j]])[c]
// sorted_gradient[sorted_row[s][j]] = weight[s][j] * out_gradient[s] * multipliers of drop_j
//
// mapping   one warp per token, 16 bytes per lane, grid-stride over tokens. A thread writes an element after reading
//           it, and nobody else reads it: the gradient may take the values' place.
// bytes     rows * width * element * (3 read, 2 written), nothing twice
// numerics  float32; a lane's columns in order, then the lanes by a fixed tree: a row does not depend on the grid
template <bool kDropout, bool kAligned, typename Element>
__global__ void __launch_bounds__(32 * kWarps) sum_choices_backward(const Rows<Element> p, const DropoutDraw dropout) {
  constexpr int kCount = kLength<Element>;
  const ChoiceDropouts dropouts(dropout);
  for (int token = first_row(); token < p.routing.rows; token += row_step()) {
    const Choices choices(p.routing, token);
    float products[kExpertsPerToken] = {};
    for (int column = static_cast<int>(threadIdx.x) * kCount; column < p.width; column += 32 * kCount) {
      const int available = min(kCount, p.width - column);
      Packed<Element, kCount> loaded[kExpertsPerToken];
      load_choices<kAligned>(p, choices, column, available, loaded);
      const auto behind =
          load_packed<Element, kCount>(p.out_gradient + token * p.out_gradient_stride + column, available, kAligned);
#pragma unroll
      for (int j = 0; j < kExpertsPerToken; ++j) {
        if (choices.row[j] < 0) continue;
        float gradients[kCount], values[kCount];
        behind.unpack(gradients);
        loaded[j].unpack(values);
        if (kDropout) dropouts.multiply(j, token, column, p.width, gradients);
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
          products[j] = fmaf(gradients[i], values[i], products[j]);
          gradients[i] *= choices.weight[j];
        }
        store_packed<Element, kCount>(p.sorted_gradient + choices.row[j] * p.sorted_gradient_stride + column, available,
                                      kAligned, gradients);
      }
    }
#pragma unroll
    for (int j = 0; j < kExpertsPerToken; ++j) {
      const float sum = warp_sum(products[j]);
      if (threadIdx.x == 0) p.weight_gradients[token * p.weight_gradients_stride + j] = sum;
    }
  }
}

void check_routing(const ExpertRouting& routing, int64_t sorted_rows, int64_t rows) {
  CBTM_ASSERT(routing.rows() == rows && sorted_rows == kExpertsPerToken * rows, "two sorted rows for each token");
}

}  // namespace

void gather_expert_rows(Context& context, const GatherExpertRows& arguments) {
  const ConstTensorView source = arguments.source;
  const TensorView sorted = arguments.sorted;
  CBTM_ASSERT(sorted.dtype == source.dtype && sorted.columns == source.columns, "rows are copied as they are");
  check_routing(arguments.routing, sorted.rows, source.rows);
  const ExpertRouting& routing = arguments.routing;
  gather_rows(context, {.source = source, .rows = routing.sources, .out = sorted}, kExpertsPerToken,
              routing.offsets.as<int32_t>() + routing.experts());
}

void scatter_expert_rows(Context& context, const ScatterExpertRows& arguments) {
  const ConstTensorView sorted = arguments.sorted;
  const TensorView out = arguments.out;
  CBTM_ASSERT(sorted.dtype == out.dtype && sorted.columns == out.columns, "rows are added as they are");
  check_routing(arguments.routing, sorted.rows, out.rows);
  if (out.size() == 0) return;
  dispatch_floating(out.dtype, [&]<typename Element>() {
    dispatch_bool(rows_aligned(sorted, 16) && rows_aligned(out, 16), [&]<bool kAligned>() {
      Rows<Element> rows{};
      rows.sorted = sorted.as<Element>(), rows.sorted_stride = sorted.row_stride;
      rows.out = out.as<Element>(), rows.out_stride = out.row_stride;
      rows.width = static_cast<int>(out.columns);
      rows.routing = RoutingView(arguments.routing);
      sum_choices<false, false, kAligned><<<row_blocks(context, out.rows), dim3(32, kWarps), 0, context.stream>>>(
          rows, DropoutDraw(), arguments.accumulate);
    });
  });
  CBTM_CUDA_LAUNCHED("scatter_expert_rows");
}

void combine_expert_rows(Context& context, const CombineExpertRows& arguments) {
  const ConstTensorView sorted = arguments.sorted;
  const TensorView out = arguments.out;
  CBTM_ASSERT(sorted.dtype == out.dtype && sorted.columns == out.columns, "experts' outputs are rows of the output");
  check_routing(arguments.routing, sorted.rows, out.rows);
  if (out.size() == 0) return;
  dispatch_floating(out.dtype, [&]<typename Element>() {
    dispatch_bool(rows_aligned(sorted, 16) && rows_aligned(out, 16), [&]<bool kAligned>() {
      dispatch_bool(arguments.dropout.active(), [&]<bool kDropout>() {
        Rows<Element> rows{};
        rows.sorted = sorted.as<Element>(), rows.sorted_stride = sorted.row_stride;
        rows.out = out.as<Element>(), rows.out_stride = out.row_stride;
        rows.width = static_cast<int>(out.columns);
        rows.routing = RoutingView(arguments.routing);
        sum_choices<true, kDropout, kAligned><<<row_blocks(context, out.rows), dim3(32, kWarps), 0, context.stream>>>(
            rows, DropoutDraw(arguments.dropout), false);
      });
    });
  });
  CBTM_CUDA_LAUNCHED("combine_expert_rows");
}

void combine_expert_rows_backward(Context& context, const CombineExpertRowsBackward& arguments) {
  const ConstTensorView sorted = arguments.sorted, behind = arguments.out_gradient;
  const TensorView gradient = arguments.sorted_gradient;
  CBTM_ASSERT(sorted.dtype == behind.dtype && sorted.columns == behind.columns && gradient.dtype == sorted.dtype &&
                  gradient.columns == sorted.columns && gradient.rows == sorted.rows,
              "gradients are like the values");
  check_routing(arguments.routing, sorted.rows, behind.rows);
  if (behind.rows == 0) return;
  const bool aligned = rows_aligned(sorted, 16) && rows_aligned(behind, 16) && rows_aligned(gradient, 16);
  dispatch_floating(behind.dtype, [&]<typename Element>() {
    dispatch_bool(aligned, [&]<bool kAligned>() {
      dispatch_bool(arguments.dropout.active(), [&]<bool kDropout>() {
        Rows<Element> rows{};
        rows.sorted = sorted.as<Element>(), rows.sorted_stride = sorted.row_stride;
        rows.sorted_gradient = gradient.as<Element>(), rows.sorted_gradient_stride = gradient.row_stride;
        rows.out_gradient = behind.as<Element>(), rows.out_gradient_stride = behind.row_stride;
        rows.weight_gradients = arguments.weight_gradients.as<float>();
        rows.weight_gradients_stride = arguments.weight_gradients.row_stride;
        rows.width = static_cast<int>(behind.columns);
        rows.routing = RoutingView(arguments.routing);
        sum_choices_backward<kDropout, kAligned>
            <<<row_blocks(context, behind.rows), dim3(32, kWarps), 0, context.stream>>>(rows,
                                                                                        DropoutDraw(arguments.dropout));
      });
    });
  });
  CBTM_CUDA_LAUNCHED("combine_expert_rows_backward");
}

}  // namespace cbtm::cuda
