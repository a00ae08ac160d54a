#pragma once

#include "matmul.h"

namespace cbtm::cuda::hopper {

/// Whether product() can make it here: on a GPU of compute capability 9.0, by a program with code for 90a; bfloat16 or
/// float16 operands with 16-byte aligned rows, in the orders of a linear layer's forward pass, of its input gradient
/// (c of 16 bits) and of its weight gradient (c of 32); without batches.
bool product_applies(const Context& context, const MatmulArguments& arguments);

/// The product with its epilogue, in one launch of a kernel of our own for 90a (product_kernel.cuh). Sums in the order
/// of k, whatever the number of rows, columns and multiprocessors.
void product(Context& context, const MatmulArguments& arguments);

}  // namespace cbtm::cuda::hopper
