#pragma once

#include "cbtm/train/run_training.h"
#include "commands/command_line.h"

namespace cbtm {

/// --steps, --tokens, --batch-tokens and so on: what train_seed, train_expert and run share, in the group "Training".
void add_training_flags(CommandLine& line);
/// --match, in the group "Training".
void add_match_flag(CommandLine& line);
/// --preset, --config, --init, in the group "Model".
void add_model_source_flags(CommandLine& line);

/// The settings of a dense model by those flags. Without --steps and --tokens: one epoch over `corpus_tokens`.
/// `batch_multiple`: the default batch is a multiple of this many sequences.
TrainingSettings dense_settings(const CommandLine& line, const ModelSpec& config, int64_t corpus_tokens,
                                int64_t batch_multiple);

/// A peak learning rate that suits the width: 6e-4 for 125m as published, 2e-4 for 6.7b, more for smaller models.
double default_learning_rate(int64_t hidden_size);

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
