#pragma once

#include "cbtm/device/moe_operands.h"
#include "decode_linear_mma_steps.cuh"
#include "gelu.cuh"

namespace cbtm::cuda {
namespace {

// The parameters of a linear layer (decode_linear_mma_steps.cuh) for all experts, and those of one of them.

struct ExpertParams {
  const int32_t* offsets;
  int count;
  Activation activation;
};

inline ExpertParams expert_params_of(const ExpertLinearForward& a) {
  return {.offsets = a.offsets.as<int32_t>(), .count = static_cast<int>(a.experts()), .activation = a.activation};
}

/// Of all experts, as if they were one layer; `out` is that of one expert.
inline Params expert_linear_params(const ExpertLinearForward& a) {
  LinearForward whole;
  whole.input = a.input;
  whole.weight = a.weight;
  whole.bias = a.bias;
  whole.output = a.output;
  whole.weight_scales = a.weight_scales;
  Params p = linear_params(whole);
  p.out = a.out();
  return p;
}

/// Of the rows first_row .. first_row + rows - 1, which are the expert's, and its outputs from `first_output` on.
template <typename Element, typename Weight>
__device__ __forceinline__ Params expert_params(const Params& whole, int expert, int first_row, int rows,
                                                int64_t first_output = 0) {
  Params p = whole;
  const int64_t first = expert * whole.out + first_output;
  p.input = static_cast<const Element*>(whole.input) + first_row * whole.input_stride;
  p.rows = rows;
  p.out = whole.out - first_output;
  p.weight =
      static_cast<const char*>(whole.weight) + first * whole.weight_stride * static_cast<int64_t>(sizeof(Weight));
  if (std::is_same_v<Weight, int8_t>) p.scales = static_cast<const float*>(whole.scales) + first;
  if (std::is_same_v<Weight, Int4>) p.scales = static_cast<const f16*>(whole.scales) + first * whole.scales_stride;
  if (whole.bias != nullptr)
    p.bias =
        static_cast<const char*>(whole.bias) + first * (whole.bias_f32 ? 4 : static_cast<int64_t>(sizeof(Element)));
  p.output = static_cast<Element*>(whole.output) + first_row * whole.output_stride + first_output;
  return p;
}

/// activation(sum); that of a sum as the output holds it, if it is a GELU, as in training.
template <typename Element>
__device__ __forceinline__ float activated(Activation activation, float sum) {
  if (activation == Activation::none) return sum;
  if (activation == Activation::relu) return fmaxf(sum, 0.0f);
  const float held = widened(narrowed<Element>(sum));
  return activation == Activation::gelu ? gelu(held) : gelu_tanh(held);
}

}  // namespace
}  // namespace cbtm::cuda
