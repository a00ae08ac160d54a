#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "cbtm/base/json.h"
#include "cbtm/prefix/prefix_router.h"
#include "prefix/round_training.h"

namespace cbtm {

/// What is known after some rounds.
struct RoundState {
  int64_t rounds = 0;  ///< that are done
  std::vector<ModelState> models;
  std::vector<double> losses;  ///< as PrefixClustering::losses
  double relative_gap = 0;     ///< of the last round's assignment
};

/// The directory of the last round's state: a prefix router of these models, with their moments beside it.
std::filesystem::path round_directory(const std::filesystem::path& work_directory);

/// Puts the state in place of the one before, in one step.
void write_round_state(const std::filesystem::path& work_directory, const Json& identity, const RoundState& state,
                       const ModelSpec& spec, int64_t prefix_tokens, const Tokenizer& tokenizer);

/// The state that a stopped process left; nothing if there is none, or if it is of another identity or damaged, which
/// is said.
std::optional<RoundState> read_round_state(const std::filesystem::path& work_directory, const Json& identity,
                                           const ModelSpec& spec, int64_t clusters);

}  // namespace cbtm
