#pragma once

#include "matmul.h"

namespace cbtm::cuda {

// What cuBLASLt has no algorithm for, by kernels of our own.

/// The arguments of the product alone.
MatmulArguments without_epilogue(const MatmulArguments& arguments);
/// The epilogue on what the product alone has left in c, by kernels of activation.h. Sums need Context::workspace.
void apply_epilogue(Context& context, const MatmulArguments& arguments);
/// The product alone, for every type and layout; sums in float32, in the order of k. Far from a GPU's peak.
void plain_product(Context& context, const MatmulArguments& arguments);
/// Says on stderr, once for each kind, that cuBLASLt has no such product, and what is done instead.
void say_missing(const MatmulArguments& arguments);

}  // namespace cbtm::cuda
