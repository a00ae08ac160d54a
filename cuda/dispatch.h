#pragma once

#include <cstdint>

#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/error.h"
#include "cbtm/device/tensor.h"

namespace cbtm::cuda {

/// Calls function.operator()<Element>() for the floating type that `dtype` names.
template <typename Function>
void dispatch_floating(DType dtype, const Function& function) {
  switch (dtype) {
    case DType::f32: return function.template operator()<float>();
    case DType::bf16: return function.template operator()<bf16>();
    case DType::f16: return function.template operator()<f16>();
    default: CBTM_ASSERT(false, "model operators take float32, bfloat16 and float16");
  }
}

/// Calls function.operator()<value>(): kernels have what the host knows, such as whether rows begin at whole accesses,
/// as a template parameter, so that their loops hold one way and not two.
template <typename Function>
void dispatch_bool(bool value, const Function& function) {
  if (value) return function.template operator()<true>();
  function.template operator()<false>();
}

/// Whether every row of the view starts at a multiple of `bytes`. True of an empty view.
template <typename View>
bool rows_aligned(View view, int64_t bytes) {
  if (!view) return true;
  return reinterpret_cast<uintptr_t>(view.data) % static_cast<uintptr_t>(bytes) == 0 &&
         (view.rows <= 1 || view.row_stride * dtype_bytes(view.dtype) % bytes == 0);
}

/// Whether every row of a float32 view is whole vectors of 16 bytes.
template <typename View>
bool whole_vectors(View view) {
  return rows_aligned(view, 16) && view.columns % 4 == 0;
}

}  // namespace cbtm::cuda
