#pragma once

#include <cstdint>
#include <string>

namespace cbtm {

/// How documents are divided among the experts (docs/method.md, 'Clusterings').
enum class Clustering : uint8_t {
  balanced,    ///< k-means with clusters of equal size
  unbalanced,  ///< plain k-means
  random,      ///< a seeded partition into parts of equal size
  domains,     ///< by the domains that the corpus names
  prefix       ///< by the small language models of a prefix router
};

/// "balanced", "unbalanced", "random", "domains", "prefix".
const char* clustering_name(Clustering clustering);
/// Throws a usage Error that names --clustering, also for "prefix", which --router asks for.
Clustering parse_clustering(const std::string& name);
/// True if k-means finds the clusters; else the documents' labels are given before the router is fitted.
inline bool is_kmeans(Clustering clustering) {
  return clustering == Clustering::balanced || clustering == Clustering::unbalanced;
}

}  // namespace cbtm
