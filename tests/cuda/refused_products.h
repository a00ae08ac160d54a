#pragma once

#include <cstdlib>

namespace cbtm {

/// Whether the simulator's cuBLASLt refuses products (CUDASIM_CUBLASLT_REFUSE): a bias is then a step of its own, and a
/// result of 16 bits is rounded before it and after it.
inline bool products_are_refused() {
  const char* refused = std::getenv("CUDASIM_CUBLASLT_REFUSE");
  return refused != nullptr && *refused != 0;
}

}  // namespace cbtm
