#pragma once

#include "cbtm/device/linear_operands.h"
#include "runtime/context.h"

namespace cbtm::cuda {

/// Whether decode_linear takes these on a GPU of that compute capability (80, 90, ...): types it has a kernel for, and
/// so few rows that it is the fastest.
bool decode_linear_applies(const LinearForward& arguments, int compute_capability);
/// The most rows that decode_linear takes of activations of this type.
constexpr int64_t decode_linear_rows_max(DType input) { return input == DType::f32 ? 8 : 32; }
/// Linear layer for a few rows: bound by reading the weights once. A row's result does not depend on the others.
void decode_linear(Context& context, const LinearForward& arguments);

/// Those of decode_linear whose activations are bf16 or f16: by tensor cores.
bool decode_linear_mma_applies(const LinearForward& arguments, int compute_capability);
void decode_linear_mma(Context& context, const LinearForward& arguments);

}  // namespace cbtm::cuda
