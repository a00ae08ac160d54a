#pragma once

#include "cbtm/device/tensor.h"
#include "cbtm/tensor_file/tensor_file.h"

namespace cbtm {

/// Writes a floating-point tensor's elements in row-major order as f32, bf16 or f16: widening is exact, narrowing
/// rounds to nearest even. On all threads.
void read_stored_values(const StoredTensor& tensor, DType dtype, void* out);

}  // namespace cbtm
