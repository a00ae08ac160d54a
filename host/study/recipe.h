#pragma once

#include <optional>
#include <string>

#include "cbtm/base/json.h"
#include "cbtm/cluster/cluster_corpus.h"
#include "cbtm/model/upcycle.h"
#include "cbtm/pipeline/corpus_stages.h"
#include "cbtm/study/config.h"
#include "cbtm/study/grid.h"
#include "cbtm/train/trainer.h"

namespace cbtm::study {

/// What each stage of a study is made with. All of it follows from the configuration, so that it is the same on every
/// machine, and known before anything is made.

TokenizerSource tokenizer_source(const Config& config);
/// Of the whole corpus as one cluster: what makes the embedding. `corpus` as the stages read it.
ClusterOptions corpus_options(const Config& config, const CorpusOptions& corpus);
/// Of one clustering in that embedding, which lies in `embedding`.
ClusterOptions clustering_options(const Config& config, const CorpusOptions& corpus, const System& system,
                                  uint64_t seed, const std::filesystem::path& embedding);
/// The shape of a system's models.
const Shape& shape_of(const Config& config, bool larger);
/// How a mixture of experts is made of the seed: in every second layer, as in the published program.
Upcycling upcycling_of(const ModelSpec& dense, int64_t experts, uint64_t seed);
/// What a cell of this system trains: the shape, or the mixture that is made of it.
ModelSpec model_of(const Config& config, const System& system, int64_t vocab_size);
TrainingSettings seed_settings(const Config& config, uint64_t seed);
/// Of one model of the cell: of each expert, or of the one model.
TrainingSettings branch_settings(const Config& config, const Cell& cell);

/// Whether few-shot tasks are scored: with the main shape and the largest budget, by single models and by the first
/// k-means clustering.
bool scores_tasks(const Config& config, const System& system);

/// Everything that a cell's result depends on. `corpus`: the corpus's fingerprint. Reads the files of tasks, of shapes
/// and of a tokenizer that are given, for their hashes. Throws Error.
Json recipe_of(const Config& config, const Cell& cell, const std::string& corpus);

/// Forward FLOPs per token of one model of this description, at sequences of this length. The one place that a study
/// takes them from.
double forward_flops(const ModelSpec& spec, int64_t sequence);
/// FLOPs of training on this many tokens (cbtm/accounting/model_cost.h).
double training_flops(const ModelSpec& spec, int64_t sequence, int64_t tokens);
/// The tokens that all experts of a cell together are trained on: its budget in whole steps.
int64_t training_tokens(const Config& config, const System& system);
/// FLOPs of a cell's trainings, with the vocabulary of the configuration.
double cell_flops(const Config& config, const System& system);

}  // namespace cbtm::study
