#pragma once

#include "cbtm/device/cluster_operators.h"
#include "runtime/context.h"

namespace cbtm::cuda {

void price_sweep(Context& context, const PriceSweep& arguments);
void assign_at_prices(Context& context, const AssignAtPrices& arguments);

}  // namespace cbtm::cuda
