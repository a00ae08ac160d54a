#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <vector>

#include "ensemble/sequence_caches.h"

namespace cbtm {

/// What a step reads: by model (an expert's cluster), and which sequences are then read to their ends by all of their
/// models.
struct ReadPlan {
  std::map<int64_t, std::vector<PlannedRead>> reads;
  std::vector<int64_t> complete;
};

/// What is asked of whoever plans.
struct ReadState {
  std::function<std::vector<int64_t>(int64_t sequence)> models_of;  ///< that the sequence needs
  std::function<int64_t(int64_t model, int64_t sequence)> length;   ///< tokens that a model has read of it
  std::function<int64_t(int64_t model)> shared_unit;                ///< as cbtm::shared_unit
};

/// A sequence of which only the newest token is left is read in any case. Of the others each model reads about
/// `prompt_rows` tokens, first come, first served. The last unit of a sequence is read by all of its models in the same
/// step, so that all logits are there at once. A sequence whose prompt begins like that of another which is read in
/// this step waits for it where that saves its reading.
ReadPlan plan_reads(std::span<const int64_t> sequences, const std::map<int64_t, GrowingSequence>& texts,
                    const ReadState& state, int64_t prompt_rows);

}  // namespace cbtm
