#pragma once

#include <string>

#include "cuda_device.h"

namespace cbtm {

/// What the tests take for 16 bits: bfloat16, or float16 on a GPU that has none (compute capability 7.5).
inline DType half_type() {
  static const DType type = make_cuda_device(0)->training_type();
  return type;
}
/// The same as a value of --precision.
inline std::string half_precision() { return half_type() == DType::bf16 ? "bf16" : "fp16"; }
/// `dtype`, or float16 for bfloat16 that the GPU does not compute in.
inline DType computed_type(DType dtype) { return dtype == DType::bf16 ? half_type() : dtype; }

}  // namespace cbtm
