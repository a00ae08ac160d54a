// Gradients of the router of a mixture of experts: of the logits, then two products with few experts.

#include <algorithm>

#include "dispatch.h"
#include "elements.cuh"
#include "f32_tile.cuh"
#include "moe/route_tokens.h"
#include "moe/routing_view.cuh"
#include "row_sum.cuh"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int64_t kPartsMax = 32;
constexpr int64_t kPartRowsMin = 256;

// gradients[s][e] = balance * g[s][e] * (f_e - Σ_j f_j g[s][j])
//                   + w1 w2 (weight_gradients[s][0] - weight_gradients[s][1]) * (1 for e1, -1 for e2)
// with g = softmax(logits[s]) and f_e = first_counts[e] / rows.
//
// mapping   one warp per token; exponentials are worked out again in each of three passes over its logits
// bytes     rows * experts * 8, and some 30 bytes per token
// numerics  float32; sums over experts by a fixed tree
__global__ void __launch_bounds__(kThreads)
    router_logit_gradients(const RoutingView routing, const float* __restrict__ weight_gradients,
                           int64_t weight_gradients_stride, float balance, float* __restrict__ gradients,
                           int64_t gradients_stride) {
  const int token = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (token >= routing.rows) return;
  const float* const logits = routing.logits + token * routing.logits_stride;
  const int32_t* const choices = routing.choices + token * routing.choices_stride;
  const float* const weights = routing.weights + token * routing.weights_stride;
  const int first = choices[0], second = choices[1];
  const float shift = logits[first], rows = static_cast<float>(routing.rows);
  const auto fraction = [&](int e) { return static_cast<float>(routing.first_counts[e]) / rows; };
  float total = 0, weighted = 0;
  for (int e = lane; e < routing.experts; e += 32) {
    const float gate = expf(logits[e] - shift);
    total += gate;
    weighted = fmaf(gate, fraction(e), weighted);
  }
  total = warp_sum(total);
  const float mean_fraction = warp_sum(weighted) / total;
  const float* const behind = weight_gradients + token * weight_gradients_stride;
  const float difference = weights[0] * weights[1] * (behind[0] - behind[1]);
  for (int e = lane; e < routing.experts; e += 32) {
    const float gate = expf(logits[e] - shift) / total;
    float gradient = balance * gate * (fraction(e) - mean_fraction);
    if (e == first) gradient += difference;
    if (e == second) gradient -= difference;
    gradients[token * gradients_stride + e] = gradient;
  }
}

// input_gradient += gradients router
//
// mapping   one block per 64 tokens and 64 columns (f32_tile.cuh)
// bytes     rows * width * 2 element, nothing twice; gradients and router from the L2
// numerics  float32, experts in order, added to what was there and rounded once
template <bool kAligned, typename Element, typename Router>
__global__ void __launch_bounds__(kF32Threads)
    router_input_gradient(const float* __restrict__ gradients, int64_t gradients_stride,
                          const Router* __restrict__ router, int64_t router_stride, int rows, int width, int experts,
                          Element* __restrict__ out, int64_t out_stride) {
  __shared__ F32TileShared shared;
  const int column_blocks = (width + kF32Tile - 1) / kF32Tile;
  const int first_row = static_cast<int>(blockIdx.x) / column_blocks * kF32Tile;
  const int first_column = static_cast<int>(blockIdx.x) % column_blocks * kF32Tile;
  float sums[kF32Part][kF32Part] = {};
  f32_tile<true, false>(
      [&](int e, int row) {
        return first_row + row < rows ? gradients[(first_row + row) * gradients_stride + e] : 0.0f;
      },
      [&](int e, int column) {
        return first_column + column < width ? widened(router[e * router_stride + first_column + column]) : 0.0f;
      },
      experts, shared, sums);
  const int column = first_column + f32_tile_column(), available = min(kF32Part, width - column);
#pragma unroll
  for (int i = 0; i < kF32Part; ++i) {
    const int row = first_row + f32_tile_row() + i;
    if (row >= rows || available <= 0) continue;
    Element* const place = out + row * out_stride + column;
    float before[kF32Part];
    load_packed<Element, kF32Part>(place, available, kAligned).unpack(before);
#pragma unroll
    for (int j = 0; j < kF32Part; ++j) sums[i][j] += before[j];
    store_packed<Element, kF32Part>(place, available, kAligned, sums[i]);
  }
}

// out[part][e][c] (= or, with one part, +=) Σ gradients[s][e] * input[s][c] over the tokens of a part
//
// mapping   one block per 64 columns, 64 experts and part (f32_tile.cuh)
// bytes     rows * width * element for every 64 experts; parts * experts * width * 4 written
// numerics  float32, tokens in order; which belong to a part follows from the shape and the GPU
template <typename Element>
__global__ void __launch_bounds__(kF32Threads)
    router_gradient_of_parts(const float* __restrict__ gradients, int64_t gradients_stride,
                             const Element* __restrict__ input, int64_t input_stride, int rows, int width, int experts,
                             float* __restrict__ out, int64_t out_stride, bool accumulate) {
  __shared__ F32TileShared shared;
  const int first_column = static_cast<int>(blockIdx.x) * kF32Tile,
            first_expert = static_cast<int>(blockIdx.y) * kF32Tile;
  const auto begin = static_cast<int>(int64_t{rows} * blockIdx.z / gridDim.z);
  const auto end = static_cast<int>(int64_t{rows} * (blockIdx.z + 1) / gridDim.z);
  float sums[kF32Part][kF32Part] = {};
  f32_tile<false, false>(
      [&](int token, int e) {
        return first_expert + e < experts ? gradients[(begin + token) * gradients_stride + first_expert + e] : 0.0f;
      },
      [&](int token, int column) {
        return first_column + column < width ? widened(input[(begin + token) * input_stride + first_column + column])
                                             : 0.0f;
      },
      end - begin, shared, sums);
  out += int64_t{blockIdx.z} * experts * width;
#pragma unroll
  for (int i = 0; i < kF32Part; ++i)
#pragma unroll
    for (int j = 0; j < kF32Part; ++j) {
      const int expert = first_expert + f32_tile_row() + i, column = first_column + f32_tile_column() + j;
      if (expert >= experts || column >= width) continue;
      float& place = out[expert * out_stride + column];
      place = accumulate ? place + sums[i][j] : sums[i][j];
    }
}

// out[e][c] += Σ_part partial[part][e][c], in order. One thread per element.
__global__ void __launch_bounds__(kThreads)
    add_router_gradients(const float* __restrict__ partial, int parts, int experts, int width, float* __restrict__ out,
                         int64_t out_stride) {
  const int64_t size = int64_t{experts} * width, place = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (place >= size) return;
  float sum = 0;
#pragma unroll 4
  for (int part = 0; part < parts; ++part) sum += partial[part * size + place];
  out[place / width * out_stride + place % width] += sum;
}

/// Parts into which the tokens are cut for the router's gradient: enough blocks to fill the GPU.
int64_t gradient_parts(const Context& context, int64_t rows, int64_t experts, int64_t width) {
  const int64_t blocks = ceil_divide(experts, kF32Tile) * ceil_divide(width, kF32Tile);
  const int64_t wanted = std::clamp<int64_t>(ceil_divide(int64_t{context.sm_count} * 4, blocks), 1, kPartsMax);
  return std::clamp<int64_t>(rows / kPartRowsMin, 1, wanted);
}

}  // namespace

int64_t scratch_bytes(const Context& context, const RouteTokensBackward& arguments) {
  const int64_t experts = arguments.routing.experts(), width = arguments.input.columns;
  const int64_t parts = gradient_parts(context, arguments.routing.rows(), experts, width);
  return parts > 1 ? parts * experts * width * 4 : 0;
}

void route_tokens_backward(Context& context, const RouteTokensBackward& arguments) {
  const ConstTensorView input = arguments.input, router = arguments.router;
  const TensorView gradients = arguments.logit_gradients, input_gradient = arguments.input_gradient,
                   router_gradient = arguments.router_gradient;
  const auto rows = static_cast<int>(input.rows), width = static_cast<int>(input.columns),
             experts = static_cast<int>(router.rows);
  CBTM_ASSERT(arguments.routing.rows() == rows && gradients.rows == rows && gradients.columns == experts &&
                  input_gradient.dtype == input.dtype && router_gradient.columns == width,
              "shapes of a router agree");
  if (rows == 0) return;
  router_logit_gradients<<<static_cast<unsigned>(ceil_divide(rows, kWarps)), kThreads, 0, context.stream>>>(
      RoutingView(arguments.routing), arguments.weight_gradients.as<float>(), arguments.weight_gradients.row_stride,
      arguments.balance_scale * static_cast<float>(experts), gradients.as<float>(), gradients.row_stride);
  CBTM_CUDA_LAUNCHED("router_logit_gradients");

  const int64_t blocks = ceil_divide(rows, kF32Tile) * ceil_divide(width, kF32Tile);
  dispatch_floating(input.dtype, [&]<typename Element>() {
    dispatch_floating(router.dtype, [&]<typename Router>() {
      dispatch_bool(
          rows_aligned(input_gradient, kF32Part * static_cast<int64_t>(sizeof(Element))), [&]<bool kAligned>() {
            router_input_gradient<kAligned><<<static_cast<unsigned>(blocks), kF32Threads, 0, context.stream>>>(
                gradients.as<float>(), gradients.row_stride, router.as<Router>(), router.row_stride, rows, width,
                experts, input_gradient.as<Element>(), input_gradient.row_stride);
          });
    });
  });
  CBTM_CUDA_LAUNCHED("router_input_gradient");

  const auto parts = static_cast<unsigned>(gradient_parts(context, rows, experts, width));
  auto* const partial = parts > 1 ? static_cast<float*>(context.workspace(scratch_bytes(context, arguments))) : nullptr;
  const dim3 grid(static_cast<unsigned>(ceil_divide(width, kF32Tile)),
                  static_cast<unsigned>(ceil_divide(experts, kF32Tile)), parts);
  dispatch_floating(input.dtype, [&]<typename Element>() {
    router_gradient_of_parts<<<grid, kF32Threads, 0, context.stream>>>(
        gradients.as<float>(), gradients.row_stride, input.as<Element>(), input.row_stride, rows, width, experts,
        parts > 1 ? partial : router_gradient.as<float>(), parts > 1 ? width : router_gradient.row_stride, parts == 1);
  });
  CBTM_CUDA_LAUNCHED("router_gradient_of_parts");
  if (parts == 1) return;
  add_router_gradients<<<static_cast<unsigned>(ceil_divide(int64_t{experts} * width, kThreads)), kThreads, 0,
                         context.stream>>>(partial, static_cast<int>(parts), experts, width,
                                           router_gradient.as<float>(), router_gradient.row_stride);
  CBTM_CUDA_LAUNCHED("add_router_gradients");
}

}  // namespace cbtm::cuda
