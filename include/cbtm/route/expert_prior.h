#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "cbtm/base/json.h"

namespace cbtm {

/// How probable each expert is for the documents of a domain: what `cbtm ensemble prior` fits (docs/formats.md,
/// 'Prior').
struct ExpertPrior {
  std::vector<double> prior;         ///< [clusters], their sum is 1
  std::string router_hash;           ///< of the router that says what the clusters are
  std::string documents_hash;        ///< over the ids of the documents that it was fitted on
  std::vector<std::string> experts;  ///< names of the experts' directories, by cluster; "" where none was present
  int64_t documents = 0;             ///< that it was fitted on
  std::string likelihood = "last";   ///< of the posterior that it was fitted with: "last" or "exact"
  std::string command;
};

Json expert_prior_json(const ExpertPrior& prior);
/// Reads a file of `cbtm ensemble prior`. Throws Error that names file and key, also if it is of other clusters than
/// `clusters` or of another router.
ExpertPrior read_expert_prior(const std::filesystem::path& path, int64_t clusters, const std::string& router_hash);

}  // namespace cbtm
