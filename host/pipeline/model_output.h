#pragma once

#include <filesystem>
#include <span>

#include "cbtm/model/expert_card.h"
#include "cbtm/model/spec.h"
#include "cbtm/run/run_directory.h"
#include "cbtm/train/trainer.h"

namespace cbtm {

/// A trained model with everything that belongs beside it (the run's tokenizer, its card, its metrics), whole or not at
/// all. The card gets the weights' hash.
void write_model(const std::filesystem::path& directory, const ModelSpec& spec, std::span<const float> parameters,
                 const RunDirectory& run, const TrainingJob& job, ExpertCard& card);

/// Copies the run's router beside the experts, so that these can be carried off. The same one already there is left
/// alone: its temperature may have been tuned. A damaged one is put there anew. Experts may finish at the same time.
void put_router(const RunDirectory& run);

}  // namespace cbtm
