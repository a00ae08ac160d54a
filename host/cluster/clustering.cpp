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
    case Clustering::prefix: return "prefix";
  }
  return "";
}

Clustering parse_clustering(const std::string& name) {
  for (const Clustering clustering : kClusterings)
    if (name == clustering_name(clustering)) return clustering;
  if (name == clustering_name(Clustering::prefix))
    fail_usage("--clustering prefix: that is --router prefix, which divides the corpus by its own models");
  fail_usage("--clustering {}: use balanced, unbalanced, random or domains", name);
}

}  // namespace cbtm
