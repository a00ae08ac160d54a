#include "study/maker.h"

#include <algorithm>
#include <chrono>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/json_difference.h"
#include "cbtm/base/made_json.h"
#include "cbtm/base/threads.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/model/expert_card.h"
#include "cbtm/pipeline/training_stages.h"
#include "cbtm/run/cluster_manifest.h"
#include "cbtm/run/training_summary.h"
#include "study/cell_evaluation.h"
#include "study/recipe.h"

namespace cbtm::study {
namespace {

namespace fs = std::filesystem;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// The model directories of a trained cell.
std::vector<fs::path> models_of(const Cell& cell, const RunDirectory& run) {
  if (cell.system.kind == SystemKind::dense) return {run.baseline()};
  if (cell.system.kind == SystemKind::moe) return {run.mixture()};
  std::vector<fs::path> models;
  for (int64_t cluster = 0; cluster < cell.system.k; ++cluster) models.push_back(run.expert(cluster));
  return models;
}

}  // namespace

std::optional<CellResult> find_result(const Workplace& place, const Cell& cell, const Json& recipe, bool redo) {
  const fs::path file = Workplace::result_json(place.cell(cell.name()));
  if (!fs::exists(file)) return std::nullopt;
  CellResult result =
      parse_cell_result(read_made_json(file, "remove the file; the same command makes it again"), file.string());
  if (!recipe.contains("tasks")) {  // what a cell scored while its budget was the largest
    result.recipe.erase("tasks");
    result.recipe.erase("test_lines");
    result.tasks.clear();
  }
  const std::string difference = json_difference(result.recipe, recipe, ShownValues::both);
  if (difference.empty()) return result;
  if (redo) return std::nullopt;
  fail("{}: was made from something else ({}); pass --redo to make it again, or another --out", file.string(),
       difference);
}

void Maker::make_corpus() {
  const RunDirectory run = place_.corpus();
  if (is_made(run)) return;
  const FileLock turn = take_turn(run.root());
  unlink_lost_router(run);
  prepare_run_directory(run);
  make_run_tokenizer(run, tokenizer_source(config_), means_.corpus, means_.redo, means_.command);
  make_run_clusters(*means_.devices.front(), run, corpus_options(config_, means_.corpus), std::nullopt, means_.redo,
                    means_.command);
  link_own_router(run);
  note_made(run);
}

RunDirectory Maker::shards_of(const Cell& cell) const {
  return cell.system.kind == SystemKind::ensemble ? place_.clustering(cell.system.clustering, cell.system.k, cell.seed)
                                                  : place_.corpus();
}

FileLock Maker::make_clustering(const System& system, uint64_t seed) {
  const RunDirectory run = place_.clustering(system.clustering, system.k, seed);
  const FileLock turn = take_turn(run.root());
  if (!is_made(run) || !fs::exists(run.shards())) {
    make_link(place_.corpus().tokenizer(), run.tokenizer());
    unlink_lost_router(run);
    prepare_run_directory(run);
    const ClusterOptions options =
        clustering_options(config_, means_.corpus, system, seed, place_.corpus().shards_router());
    refuse_empty_shards(
        run, make_run_clusters(*means_.devices.front(), run, options, std::nullopt, means_.redo, means_.command));
    link_own_router(run);
    note_made(run);
  }
  return lock_shards_for_reading(run);
}

void Maker::make_seed(bool larger, uint64_t seed) {
  const RunDirectory run = place_.seed(larger, seed);
  if (is_made(run)) return;
  const FileLock turn = take_turn(run.root());
  link_shards(place_.corpus(), run);
  prepare_run_directory(run);
  const SeedSource source{.spec = shape_of(config_, larger).spec(read_clusters(run).vocab_size)};
  TrainingSettings settings = seed_settings(config_, seed);
  settings.memory_bytes = means_.memory_bytes;
  train_run_seed(means_.devices, run, source, settings, means_.redo, means_.command);
  note_made(run);
}

void Maker::train(const Cell& cell, const RunDirectory& run) const {
  TrainingSettings settings = branch_settings(config_, cell);
  settings.memory_bytes = means_.memory_bytes;
  if (cell.system.kind == SystemKind::ensemble) {
    make_link(shards_of(cell).shards_router(), run.experts_router());
    train_run_experts(means_.devices, run, settings, means_.redo, means_.command);
  } else if (cell.system.kind == SystemKind::moe) {
    const ModelSpec dense = shape_of(config_, cell.system.larger).spec(read_clusters(run).vocab_size);
    train_run_mixture(means_.devices, run, upcycling_of(dense, cell.system.k, cell.seed), settings, means_.redo,
                      means_.command);
  } else {
    train_run_branch(means_.devices, run, kBaseline, settings, means_.redo, means_.command);
  }
}

/// All of the result but what the evaluation adds; and the trainings' times.
CellResult Maker::describe(const Cell& cell, const RunDirectory& run, CellTimes& times) const {
  CellResult result{.cell = cell};
  for (const fs::path& model : models_of(cell, run)) {
    const std::optional<ExpertCard> card = read_expert_card(model);
    if (!card) fail("{}: holds no expert.json; remove the directory, then the same command goes on", model.string());
    const TrainingSummary training = parse_training_summary(card->training, (model / "expert.json").string());
    result.training_tokens += training.tokens;
    result.training_steps = training.steps;
    result.skipped_steps += training.skipped_steps;
    times.training_seconds += training.training_seconds;
    times.longest_seconds = std::max(times.longest_seconds, training.training_seconds);
  }
  const ModelCheckpoint checkpoint = ModelCheckpoint::open(models_of(cell, run).front());
  result.parameters = checkpoint.layout().parameter_count();
  result.forward_flops = forward_flops(checkpoint.spec(), config_.sequence);
  result.training_flops = training_flops(checkpoint.spec(), config_.sequence, result.training_tokens);
  if (cell.system.kind == SystemKind::ensemble)
    for (const ShardSize& size : read_clusters(run).sizes) result.shards.push_back(size.train_tokens);
  return result;
}

void Maker::make_cell(const Cell& cell) {
  make_corpus();
  make_seed(cell.system.larger, cell.seed);
  std::optional<FileLock> reading;
  if (cell.system.kind == SystemKind::ensemble) reading.emplace(make_clustering(cell.system, cell.seed));
  const RunDirectory run = place_.cell(cell.name());
  const FileLock turn = take_turn(run.root());
  CellTimes times{.device = means_.devices.front()->description(), .threads = thread_count()};
  const Json recipe = recipe_of(config_, cell, means_.corpus_hash);
  if (find_result(place_, cell, recipe, means_.redo)) return;  // another process made it meanwhile
  link_shards(shards_of(cell), run);
  make_link(place_.seed(cell.system.larger, cell.seed).seed(), run.seed());
  prepare_run_directory(run);
  train(cell, run);
  CellResult result = describe(cell, run, times);
  result.recipe = recipe;
  const auto start = std::chrono::steady_clock::now();
  evaluate_cell(*means_.devices.front(), config_, run, means_.memory_bytes, result);
  times.evaluation_seconds = seconds_since(start);
  write_json_file(Workplace::times_json(run), cell_times_json(times));
  check_writable(Workplace::result_json(run), OutputKind::json);
  write_json_file(Workplace::result_json(run), cell_result_json(result));
}

}  // namespace cbtm::study
