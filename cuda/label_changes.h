#pragma once

#include "cbtm/device/cluster_operators.h"
#include "runtime/context.h"

namespace cbtm::cuda {

void smallest_margins(Context& context, const SmallestMargins& arguments);
void put_labels(Context& context, const PutLabels& arguments);
void count_changes(Context& context, ConstTensorView before, ConstTensorView after, TensorView count);

}  // namespace cbtm::cuda
