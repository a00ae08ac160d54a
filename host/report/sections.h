#pragma once

#include <string>

#include "report/run_facts.h"

namespace cbtm::report {

/// The parts of the page, in its order; each is HTML, and empty if nothing of what it shows is there.

/// Perplexity of seed, dense model and ensemble, in a sentence and a table, with what makes them comparable or not.
std::string headline_section(const RunFacts& facts);
/// What is missing.
std::string missing_section(const RunFacts& facts);
/// How the corpus split: a table and a map.
std::string corpus_section(const RunFacts& facts);
/// Held-out and training loss over tokens.
std::string training_section(const RunFacts& facts);
/// Cost, load, drops and gates of the mixture of experts.
std::string mixture_section(const RunFacts& facts);
/// Perplexity of every expert on every cluster.
std::string matrix_section(const RunFacts& facts);
/// Perplexity over the number of experts mixed.
std::string sweep_section(const RunFacts& facts);
/// Ensemble ÷ dense over tokens.
std::string budget_section(const RunFacts& facts);
/// Settings of each model side by side, and of the evaluation.
std::string settings_section(const RunFacts& facts);
/// Stages with their time, version and command.
std::string stages_section(const RunFacts& facts);

}  // namespace cbtm::report
