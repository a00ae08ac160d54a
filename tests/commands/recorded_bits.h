#pragma once

#include <map>
#include <string>
#include <vector>

namespace cbtm {

/// Hashes of everything that a small fixed run makes: router, shards, trained weights (dropout on, one training killed
/// and resumed), evaluation numbers and generated texts, of a pre-norm model with relu and of a post-norm one with gelu
/// and projections. Name of the artefact -> 32 hex digits.
/// `flags`: added to every command (device, threads); `training_flags`: to the trainings; `weights`: types to run with.
std::map<std::string, std::string> bits_of_a_run(const std::vector<std::string>& flags,
                                                 const std::vector<std::string>& training_flags,
                                                 const std::vector<std::string>& weights);

/// CHECKs these hashes against those under `name` in tests/data/recorded_bits.json. With CBTM_RECORD_BITS=1 in the
/// environment writes them there instead, and fails: a change of bits is committed on purpose, with its reason.
void check_recorded_bits(const std::string& name, const std::map<std::string, std::string>& hashes);

}  // namespace cbtm
