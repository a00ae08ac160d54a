#pragma once

#include "cbtm/run/cluster_manifest.h"
#include "cbtm/run/evaluation_result.h"

namespace cbtm {

/// Clusters with sizes and top terms, for people.
void print_clusters(const ClusterManifest& clusters);

/// The numbers of a run's evaluation for people: perplexities beside the dense baseline's.
void print_evaluation(const EvaluationSummary& evaluation);

}  // namespace cbtm
