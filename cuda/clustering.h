#pragma once

#include "cbtm/device/device.h"
#include "context.h"

namespace cbtm::cuda {

void sparse_times_dense(Context& context, const SparseMatrix& a, ConstTensorView x, TensorView y);
void squared_distances(Context& context, ConstTensorView rows, ConstTensorView centroids, TensorView distances);

}  // namespace cbtm::cuda
