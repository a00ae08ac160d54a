#pragma once

#include "cbtm/pipeline/training_stages.h"
#include "cbtm/train/expert_settings.h"
#include "commands/command_line.h"

namespace cbtm {

/// What of a dense model's settings decides memory and time: steps, sequence, batch, dropout, precision, micro-batch,
/// memory. The defaults are those of dense_settings.
TrainingSettings sized_settings(const CommandLine& line, const ModelSpec& config, int64_t corpus_tokens,
                                int64_t batch_multiple);

/// The settings of a dense model by the flags of training. Without --steps and --tokens: one epoch over
/// `corpus_tokens`. `batch_multiple`: the default batch is a multiple of this many sequences.
TrainingSettings dense_settings(const CommandLine& line, const ModelSpec& config, int64_t corpus_tokens,
                                int64_t batch_multiple);

/// A peak learning rate that suits the width: 6e-4 for 125m as published, 2e-4 for 6.7b, more for smaller models.
double default_learning_rate(int64_t hidden_size);

/// The seed's settings in a run: those of the dense model, but for its own flags and a warm-up, which a new model
/// needs.
TrainingSettings seed_settings(const CommandLine& line, const TrainingSettings& dense, const SeedSource& source,
                               int64_t corpus_tokens);

/// True for --match batch.
bool match_batch(const CommandLine& line);

/// The seed as asked for; a new model gets the tokenizer's vocabulary. Throws a usage Error unless exactly one is
/// given.
SeedSource seed_source(const CommandLine& line, int64_t vocab_size);
/// A new model of a preset's shape with the tokenizer's vocabulary.
SeedSource preset_source(const std::string& preset, int64_t vocab_size);
/// The shape of the model that the source gives.
ModelSpec source_spec(const SeedSource& source);

}  // namespace cbtm
