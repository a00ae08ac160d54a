#pragma once

#include <cstdint>

#include "cbtm/base/error.h"
#include "cbtm/device/activation.h"
#include "cbtm/device/row_sums.h"
#include "cbtm/device/tensor.h"

namespace cbtm {

/// Inputs that share a scale of int4 weights; a group takes 16 bytes: byte b holds weight b of the group in its low
/// half and weight 16 + b in its high half, each as value + 8, of values -8 .. 7. A row of `in` weights takes
/// int4_groups(in) groups one after another; weights beyond `in` are value 0. Float16 scales: 4.5 bits a weight.
inline constexpr int64_t kInt4Group = 32;
inline constexpr int64_t kInt4GroupBytes = kInt4Group / 2;
constexpr int64_t int4_groups(int64_t in) { return (in + kInt4Group - 1) / kInt4Group; }

/// out = activation(input weightᵀ + bias). `weight` may be float32, bfloat16 or float16, or in inference int8 with a
/// scale a row (weight[o][i] stands for weight_scales[o] * weight[o][i]), or int4 with a scale a group of kInt4Group
/// inputs (weight_scales[o][i / kInt4Group] * value): u8 [out, int4_groups(in) * kInt4GroupBytes], rows at multiples of
/// 16 bytes. The accumulation is float32.
struct LinearForward {
  ConstTensorView input;   ///< [rows, in]
  ConstTensorView weight;  ///< [out, in], or int4
  ConstTensorView bias;    ///< [1, out], or empty
  Activation activation = Activation::none;
  TensorView output;  ///< [rows, out]
  /// u8 [rows, ModelOperators::saved_activation_columns]: what the backward pass of the activation reads beside the
  /// output, as the device likes it. Empty: nothing is kept.
  TensorView saved = {};
  ConstTensorView weight_scales = {};  ///< int8: float32 [1, out]; int4: float16 [out, int4_groups(in)]; else empty
  RowSums row_sums = RowSums::any;

  bool int8_weights() const { return weight.dtype == DType::i8; }
  bool int4_weights() const { return weight.dtype == DType::u8; }
  /// Whether `weight` and `weight_scales` have the shapes and types that go with `input` and each other.
  bool weights_fit() const {
    if (int4_weights())
      return weight.columns == int4_groups(input.columns) * kInt4GroupBytes && weight_scales.dtype == DType::f16 &&
             weight_scales.rows == weight.rows && weight_scales.columns == int4_groups(input.columns);
    if (weight.columns != input.columns) return false;
    if (!int8_weights()) return !weight_scales;
    return weight_scales.dtype == DType::f32 && weight_scales.columns == weight.rows;
  }
};

/// For out = input weightᵀ + bias:  weight_gradient += out_gradientᵀ input;  bias_gradient += column sums;
/// input_gradient = (or +=, if accumulate) out_gradient weight, then, if the input was itself the output of an
/// activation, multiplied by that activation's derivative (relu'(0) = 0).
struct LinearBackward {
  ConstTensorView input;
  ConstTensorView weight;
  ConstTensorView output_gradient;
  TensorView input_gradient;  ///< [rows, in], or empty
  bool accumulate_input_gradient = false;
  Activation input_activation = Activation::none;
  /// What the forward pass of that activation kept (LinearForward::saved). A gelu on any device needs it; a relu
  /// without it reads `input` again.
  ConstTensorView input_saved = {};
  TensorView weight_gradient;  ///< float32 [out, in], accumulates; or empty
  TensorView
      bias_gradient;  ///< float32 [1, out], accumulates by ModelOperators::finish_backward at the latest; or empty
};

/// Bytes that an operator saved, as the values of `dtype` that it saved there.
template <bool kConst>
BasicTensorView<kConst> saved_values(BasicTensorView<kConst> saved, DType dtype) {
  const int64_t item = dtype_bytes(dtype);
  CBTM_ASSERT(saved.columns % item == 0 && saved.row_stride % item == 0, "whole values were saved");
  return {saved.data, dtype, saved.rows, saved.columns / item, saved.row_stride / item};
}

}  // namespace cbtm
