#pragma once

#include "matmul.h"

namespace cbtm::cuda::hopper {

/// Whether product() can make it here: on a GPU of compute capability 9.0, by a program with code for 90a; bfloat16 or
/// float16 operands with 16-byte aligned rows, in the orders of a linear layer's forward pass, of its input gradient
/// (c of 16 bits) and of its weight gradient (c of 32); without batches.
bool product_applies(const Context& context, const MatmulArguments& arguments);

/// Parts in which k is cut, each a multiple of 64 but the last: 1, but for a weight gradient with fewer tiles than the
/// GPU has room for. Follows from the shape and the number of multiprocessors.
int product_parts(const Context& context, const MatmulArguments& arguments);

/// The product with its epilogue by a kernel of our own for 90a (product_kernel.cuh). Sums in the order of k within a
/// part, and then in the order of the parts, which are in `scratch` meanwhile, of MatmulPlans::kWorkspaceBytes.
void product(Context& context, const MatmulArguments& arguments, void* scratch);

}  // namespace cbtm::cuda::hopper
