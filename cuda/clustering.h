#pragma once

#include "cbtm/device/cluster_operators.h"
#include "runtime/context.h"

namespace cbtm::cuda {

void squared_distances(Context& context, ConstTensorView rows, ConstTensorView centroids, TensorView distances);
void nearest_centres(Context& context, const NearestCentres& arguments);
void cluster_sums(Context& context, const ClusterSums& arguments);
void mean_centres(Context& context, const MeanCentres& arguments);

}  // namespace cbtm::cuda
