#pragma once

#include "cbtm/device/linear_operands.h"
#include "runtime/context.h"

namespace cbtm::cuda {

/// Whether decode_linear takes these on a GPU of that compute capability (80, 90, ...): few rows, types it has a kernel
/// for.
bool decode_linear_applies(const LinearForward& arguments, int compute_capability);
/// Linear layer for 1 to 8 rows, or up to 32 of 16-bit activations with quantised weights: bound by reading the weights
/// once.
void decode_linear(Context& context, const LinearForward& arguments);

/// Those of decode_linear whose activations are bf16 or f16: by tensor cores.
bool decode_linear_mma_applies(const LinearForward& arguments, int compute_capability);
void decode_linear_mma(Context& context, const LinearForward& arguments);

}  // namespace cbtm::cuda
