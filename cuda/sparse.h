#pragma once

#include "cbtm/device/cluster_operators.h"
#include "runtime/context.h"

namespace cbtm::cuda {

void tfidf_rows(Context& context, const TfIdfRows& arguments);
void sparse_transpose(Context& context, const SparseMatrix& a, const SparseMatrix& transposed);
void sparse_times_dense(Context& context, const SparseMatrix& a, ConstTensorView x, TensorView y);

}  // namespace cbtm::cuda
