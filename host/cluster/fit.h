#pragma once

#include <memory>
#include <vector>

#include "cbtm/cluster/cluster_corpus.h"
#include "cbtm/cluster/tfidf_router.h"
#include "cluster/given_labels.h"

namespace cbtm {

/// A router fitted on documents, and what the fit is judged by.
struct Fit {
  std::unique_ptr<TfidfRouter> router;
  std::vector<float> embeddings;  ///< [documents that could be used, dimensions]
  std::vector<int32_t> labels;    ///< of those
  ClusterManifest summary;        ///< its numbers of the fit only
};

/// tf-idf, SVD and k-means on the train side of the corpus. `counted` is what an earlier pass over it gave out. With
/// `given` labels there is no k-means: a centre is the mean of its documents. The centre of a cluster that none of the
/// fitted documents belongs to is the mean of all, and a warning says so.
Fit fit_router(Device& device, const ClusterOptions& options, const HeldOutSplit& split, const CorpusDigest& counted,
               const GivenLabels* given);

}  // namespace cbtm
