#pragma once

#include "cbtm/device/cluster_operators.h"
#include "runtime/context.h"

namespace cbtm::cuda {

void squared_distances(Context& context, ConstTensorView rows, ConstTensorView centroids, TensorView distances);
/// On tensor cores where they gain something (nearest_centres.cu), with the same results as by differences.
void nearest_centres(Context& context, const NearestCentres& arguments);
void nearest_centres_by_differences(Context& context, const NearestCentres& arguments);
void cluster_sums(Context& context, const ClusterSums& arguments);
void mean_centres(Context& context, const MeanCentres& arguments);

}  // namespace cbtm::cuda
