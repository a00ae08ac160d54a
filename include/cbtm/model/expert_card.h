#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "cbtm/base/json.h"

namespace cbtm {

/// What a trained model says of itself: its expert.json (docs/formats.md). It lies in the model's directory and appears
/// with it in one rename, so it can be believed where run.json is older, newer or gone.
struct ExpertCard {
  std::string kind;     ///< "seed", "baseline", "moe", "expert" or "upcycled"
  Json settings;        ///< everything that changes the result; an object
  Json inputs;          ///< name -> content hash of what it was trained from; null in cards of older versions
  Json training;        ///< steps, tokens, losses, seconds; null in snapshots
  std::string command;  ///< as typed; may be empty
  std::string tokenizer_hash;
  std::string seed_hash;    ///< of the weights it was branched from; empty in a seed
  std::string router_hash;  ///< experts only, as the next three
  int64_t cluster = -1;
  int64_t clusters = 0;
  std::vector<std::string> top_terms;
  int64_t snapshot_step = -1;   ///< of a snapshot: the step after which it was kept; else -1
  int64_t snapshot_tokens = 0;  ///< of a snapshot: tokens trained on until then
  std::string weights_hash;     ///< ModelCheckpoint::weights_hash, or empty

  /// Tokens of the sequences it was trained on, or `otherwise` if the card does not say.
  int64_t sequence_length(int64_t otherwise) const;
};

/// Compares the contents of an expert.json with the hash that it holds of itself (docs/formats.md, 'expert.json').
/// `file` is its name for messages. Throws Error if it was changed after it was written. False if it holds no hash, as
/// in older versions, or if verification is off (set_content_verification).
bool verify_expert_card(const Json& card, const std::filesystem::path& file);

/// Reads DIRECTORY/expert.json; nothing if there is none. Throws Error naming the file if it was changed after it was
/// written (verify_expert_card), or naming the key if a value has the wrong type.
std::optional<ExpertCard> read_expert_card(const std::filesystem::path& directory);

/// Writes DIRECTORY/expert.json, with its hash.
void write_expert_card(const std::filesystem::path& directory, const ExpertCard& card);

}  // namespace cbtm
