#pragma once

#include "cbtm/ensemble/evaluate.h"
#include "commands/command_line.h"

namespace cbtm {

/// The documents that --run and --split, or the corpus flags, name. `default_run`: taken where neither --run nor
/// --corpus is given, if it is a run.
std::vector<EvaluationDocument> documents_of(const CommandLine& line, const Tokenizer& tokenizer,
                                             const std::filesystem::path& default_run, Json& described);

/// Candidates that --router-temperature tune tries.
const std::vector<double>& temperature_candidates();

/// Writes the router with this temperature and distance power; its content hash stays.
void record_temperature(const Router& router, double temperature, double distance_power,
                        const std::filesystem::path& directory);

/// The result of an evaluation as JSON, the same for one model and for an ensemble.
Json evaluation_json(const Evaluation& evaluation, const Json& settings, const Json& documents);

}  // namespace cbtm
