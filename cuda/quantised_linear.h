#pragma once

#include "cbtm/device/linear_operands.h"
#include "runtime/context.h"

namespace cbtm::cuda {

/// The most rows for which reading int8 or int4 weights as they are beats a product with a widened copy of them.
constexpr int64_t kQuantisedLinearRowsMax = 256;

/// Whether quantised_linear takes these on a GPU of that compute capability (80, 90, ...).
bool quantised_linear_applies(const LinearForward& arguments, int compute_capability);
/// Linear layer of int8 or int4 weights and up to kQuantisedLinearRowsMax rows of 16-bit activations: the weights are
/// widened in registers. A row's result does not depend on the others. Not for a GELU.
void quantised_linear(Context& context, const LinearForward& arguments);

}  // namespace cbtm::cuda
