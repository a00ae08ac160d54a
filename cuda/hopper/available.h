#pragma once

#include "runtime/context.h"

namespace cbtm::cuda::hopper {

/// Whether the program has the kernels of this folder, which exist for 90a alone. What calls their launch functions is
/// in this folder's *.cpp, behind `#ifdef CBTM_HAS_SM_90A`.
bool is_built();

/// Whether they can run on the GPU: those of compute capability 9.0, and no later ones, have these instructions.
bool is_available(const Context& context);

}  // namespace cbtm::cuda::hopper
