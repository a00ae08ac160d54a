#pragma once

#include "cbtm/device/tensor.h"

namespace cbtm::cpu {

/// As Device::copy: the same shape; converts between floating types.
void copy(TensorView destination, ConstTensorView source);
/// As Device::fill_zero.
void fill_zero(TensorView destination);

}  // namespace cbtm::cpu
