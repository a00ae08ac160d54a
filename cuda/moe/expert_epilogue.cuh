#pragma once

#include "cbtm/device/moe_operands.h"
#include "dispatch.h"
#include "elements.cuh"
#include "gelu.cuh"

namespace cbtm::cuda {

// What the products of a mixture's experts do with their sums before they write them: 8 neighbouring columns of a row
// at a time, the first of them a multiple of 8. `available` of the columns exist.

constexpr int kEpilogueColumns = 8;

template <typename Element>
__device__ __forceinline__ void load_columns(const Element* from, int available, bool aligned,
                                             float (&values)[kEpilogueColumns]) {
  constexpr int kLength = 16 / static_cast<int>(sizeof(Element));
#pragma unroll
  for (int first = 0; first < kEpilogueColumns; first += kLength) {
    float part[kLength];
    load_packed<Element, kLength>(from + first, available - first, aligned).unpack(part);
#pragma unroll
    for (int i = 0; i < kLength; ++i) values[first + i] = part[i];
  }
}
template <typename Element>
__device__ __forceinline__ void store_columns(Element* to, int available, bool aligned,
                                              const float (&values)[kEpilogueColumns]) {
  constexpr int kLength = 16 / static_cast<int>(sizeof(Element));
#pragma unroll
  for (int first = 0; first < kEpilogueColumns; first += kLength) {
    float part[kLength];
#pragma unroll
    for (int i = 0; i < kLength; ++i) part[i] = values[first + i];
    store_packed<Element, kLength>(to + first, available - first, aligned, part);
  }
}

/// Forward: the activation, and what its backward pass needs.
template <typename Element>
struct ForwardEpilogue {
  Element* output;
  int64_t output_stride;
  const void* bias;  ///< [experts * columns], float32 or of the output's type; or null
  bool bias_f32;
  Activation activation;
  uint8_t* saved;        ///< a ReLU's mask (matmul.h) or a GELU's argument of the output's type; or null
  int64_t saved_stride;  ///< bytes
  bool aligned;          ///< rows of the output, and of saved arguments, start at multiples of 16 bytes

  __device__ __forceinline__ float bias_at(int64_t place) const {
    if (bias == nullptr) return 0;
    return bias_f32 ? static_cast<const float*>(bias)[place] : widened(static_cast<const Element*>(bias)[place]);
  }
  /// `values`: sums with the bias, rounded to the output's type.
  __device__ __forceinline__ void write(int64_t row, int column, int available,
                                        float (&values)[kEpilogueColumns]) const {
    if (activation == Activation::relu) {
      unsigned positive = 0;
#pragma unroll
      for (int i = 0; i < kEpilogueColumns; ++i) {
        values[i] = fmaxf(values[i], 0.0f);
        positive |= (i < available && values[i] > 0 ? 1u : 0u) << i;
      }
      if (saved != nullptr) saved[row * saved_stride + column / 8] = static_cast<uint8_t>(positive);
    } else if (activation != Activation::none) {
      if (saved != nullptr)
        store_columns(reinterpret_cast<Element*>(saved + row * saved_stride) + column, available, aligned, values);
#pragma unroll
      for (int i = 0; i < kEpilogueColumns; ++i)
        values[i] = activation == Activation::gelu ? gelu(values[i]) : gelu_tanh(values[i]);
    }
    store_columns(output + row * output_stride + column, available, aligned, values);
  }
};

template <typename Element>
ForwardEpilogue<Element> forward_epilogue(const ExpertLinearForward& a) {
  const bool values_saved = a.saved && is_gelu(a.activation);
  return {.output = a.output.as<Element>(),
          .output_stride = a.output.row_stride,
          .bias = a.bias.data,
          .bias_f32 = a.bias.dtype == DType::f32,
          .activation = a.activation,
          .saved = a.saved ? a.saved.as<uint8_t>() : nullptr,
          .saved_stride = a.saved.row_stride,
          .aligned = rows_aligned(a.output, 16) && (!values_saved || rows_aligned(a.saved, 16))};
}

/// Backward: the derivative of the activation that the product's input is the output of.
template <typename Element>
struct BackwardEpilogue {
  Element* gradient;
  int64_t gradient_stride;
  Activation activation;
  const Element* input;  ///< read for a ReLU without a mask
  int64_t input_stride;
  const uint8_t* saved;  ///< as ForwardEpilogue::saved
  int64_t saved_stride;
  bool aligned;  ///< rows of all of them, but for masks, start at multiples of 16 bytes

  __device__ __forceinline__ void write(int64_t row, int column, int available,
                                        float (&values)[kEpilogueColumns]) const {
    if (activation == Activation::relu && saved != nullptr) {
      const unsigned positive = saved[row * saved_stride + column / 8];
#pragma unroll
      for (int i = 0; i < kEpilogueColumns; ++i)
        if ((positive >> i & 1u) == 0) values[i] = 0;
    } else if (activation != Activation::none) {
      float others[kEpilogueColumns];
      const Element* const from = activation == Activation::relu
                                      ? input + row * input_stride
                                      : reinterpret_cast<const Element*>(saved + row * saved_stride);
      load_columns(from + column, available, aligned, others);
#pragma unroll
      for (int i = 0; i < kEpilogueColumns; ++i) {
        if (activation == Activation::relu)
          values[i] = others[i] > 0 ? values[i] : 0.0f;
        else
          values[i] *= activation == Activation::gelu ? gelu_derivative(others[i]) : gelu_tanh_derivative(others[i]);
      }
    }
    store_columns(gradient + row * gradient_stride + column, available, aligned, values);
  }
};

template <typename Element>
BackwardEpilogue<Element> backward_epilogue(const ExpertLinearBackward& a) {
  const bool values_read = is_gelu(a.input_activation);
  const bool input_read = a.input_activation == Activation::relu && !a.input_saved;
  return {.gradient = a.input_gradient.as<Element>(),
          .gradient_stride = a.input_gradient.row_stride,
          .activation = a.input_activation,
          .input = a.input.as<Element>(),
          .input_stride = a.input.row_stride,
          .saved = a.input_saved ? a.input_saved.as<uint8_t>() : nullptr,
          .saved_stride = a.input_saved.row_stride,
          .aligned = rows_aligned(a.input_gradient, 16) && (!values_read || rows_aligned(a.input_saved, 16)) &&
                     (!input_read || rows_aligned(a.input, 16))};
}

}  // namespace cbtm::cuda
