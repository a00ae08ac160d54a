#pragma once

#include <cstdint>

#include "cbtm/tensor_file/tensor_file.h"

namespace cbtm {

/// Elements that are NaN or infinite as float32, in row-major order.
struct NotFinite {
  int64_t count = 0;
  int64_t first = -1;  ///< index of the first one
};

/// Looks at every element of a floating-point tensor, on all threads: one pass at the speed of memory.
NotFinite find_not_finite(const StoredTensor& tensor);

}  // namespace cbtm
