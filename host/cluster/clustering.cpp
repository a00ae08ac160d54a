#include "cbtm/cluster/clustering.h"

#include "cbtm/base/error.h"

namespace cbtm {
namespace {

constexpr Clustering kClusterings[] = {Clustering::balanced, Clustering::unbalanced, Clustering::random,
                                       Clustering::domains};

}  // namespace

const char* clustering_name(Clustering clustering) {
  switch (clustering) {
    case Clustering::balanced: return "balanced";
    case Clustering::unbalanced: return "unbalanced";
    case Clustering::random: return "random";
    case Clustering::domains: return "domains";
  }
  return "";
}

Clustering parse_clustering(const std::string& name) {
  for (const Clustering clustering : kClusterings)
    if (name == clustering_name(clustering)) return clustering;
  fail_usage("--clustering {}: use balanced, unbalanced, random or domains", name);
}

}  // namespace cbtm
