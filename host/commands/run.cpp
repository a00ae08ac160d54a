#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "cbtm/accounting/run_cost.h"
#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/signals.h"
#include "cbtm/device/open_device.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/pipeline/evaluation_stage.h"
#include "cbtm/report/report.h"
#include "cbtm/run/run_directory.h"
#include "cbtm/run/stage_summary.h"
#include "cbtm/tokenizer/tokenizer.h"
#include "commands/commands.h"
#include "commands/corpus_flags.h"
#include "commands/mixture_flags.h"
#include "commands/prefix_flags.h"
#include "commands/print_results.h"
#include "commands/training_flags.h"

namespace cbtm {
namespace {

constexpr const char* kDefaultPreset = "micro";

SeedSource source_of(const CommandLine& line, int64_t vocab_size) {
  if (line.given("preset") || line.given("config") || line.given("init")) return seed_source(line, vocab_size);
  return preset_source(kDefaultPreset, vocab_size);
}

/// The mixture of experts that is asked for as another baseline, if one is.
std::optional<Upcycling> mixture_of(const CommandLine& line, const ModelSpec& dense) {
  if (line.given("moe-experts")) return upcycling_flags(line, dense);
  for (const char* flag : {"moe-layers", "router-init"})
    if (line.given(flag)) fail_usage("--{} does nothing without --moe-experts", flag);
  return std::nullopt;
}

/// Everything that a flag can get wrong is said before the corpus is read: what depends on the corpus is tried with
/// stand-ins. Opens the devices.
DeviceList check_all_flags(const CommandLine& line) {
  constexpr int64_t kSomeTokens = int64_t{1} << 40;
  corpus_options(line);
  prefix_clustering_options(line);
  const int64_t clusters = std::max<int64_t>(1, cluster_options(line, {}).clusters);  // 0: as many as domains
  const TokenizerSource tokenizer = tokenizer_source(line);
  const int64_t vocab_size =
      tokenizer.given.empty() ? tokenizer.vocab_size : Tokenizer::load(tokenizer.given).vocab_size();
  const SeedSource source = source_of(line, vocab_size);
  if (!line.given("preset") && !line.given("config") && !line.given("init"))
    say(fmt::format("no --preset, --config or --init: the experts branch from a new model of preset {}",
                    kDefaultPreset));
  if (line.given("init") && !line.given("tokenizer"))
    warn("--init without --tokenizer: a tokenizer learnt from the corpus has other ids than the model was trained on");
  const ModelSpec config = source_spec(source);
  if (line.given("tokenizer") && config.embedding.vocab_size < vocab_size)
    fail(
        "the model's vocabulary of {} is smaller than the tokenizer's {}; give the tokenizer that belongs to it "
        "(--tokenizer)",
        config.embedding.vocab_size, vocab_size);
  const TrainingSettings dense = dense_settings(line, source_spec(source), kSomeTokens, clusters);
  const TrainingSettings expert = expert_settings(dense, clusters, match_batch(line));
  const TrainingSettings seed = seed_settings(line, dense, source, kSomeTokens);
  const std::optional<Upcycling> upcycling = mixture_of(line, config);
  DeviceList devices = open_devices(line.common().device, line.common().profile);
  check_training_settings(devices.all(), config, dense);
  check_training_settings(devices.all(), config, seed);
  if (upcycling) check_training_settings(devices.all(), upcycled_spec(config, *upcycling), dense);
  for (Device* device : devices.all()) check_training_settings({&device, 1}, config, expert);
  return devices;
}

Json cost_of(const RunDirectory& run, const ModelSpec& model, int64_t clusters) {
  const RunSummary records = parse_run_summary(read_json_file(run.run_json()), run.run_json().string());
  return run_cost_json(run_cost(records, model), doubling_devices(clusters));
}

}  // namespace

int run_run(int argc, char** argv) {
  CommandLine line(
      "run", "everything in order: from a corpus to an evaluated ensemble and a report",
      {"cbtm run --corpus data/ --k 8 --run run/",
       "cbtm run --corpus data/ --k 4 --preset mini --tokens 100000000 --sequence 512 --run run/",
       "cbtm run --corpus data/ --k 8 --moe-experts 8 --run run/   (and a mixture of experts to compare with)",
       "cbtm run --corpus data/ --init opt-125m/ --tokenizer opt-125m/ --k 8 --run run/",
       "(the same command goes on where it was stopped; finished stages are skipped)"});
  if (!line.parse(argc, argv)) return kExitSuccess;
  const RunDirectory run(line.path("run"));
  prepare_run_directory(run);
  const DeviceList devices = check_all_flags(line);
  install_stop_signals();
  const CorpusOptions corpus = corpus_of_run(corpus_options(line), run, line.get<bool>("redo"));
  const ClusterOptions options = cluster_options(line, corpus);
  const bool redo = line.get<bool>("redo");

  ClusterManifest clusters;
  {
    const FileLock lock = lock_clusters(run);
    make_run_tokenizer(run, tokenizer_source(line), corpus, redo, line.as_typed());
    clusters = make_run_clusters(devices.front(), run, options, prefix_clustering_options(line), redo, line.as_typed());
  }
  const FileLock lock = lock_shards_for_reading(run);
  refuse_empty_shards(run, clusters);  // of an earlier `cluster`
  print_clusters(clusters);
  std::fflush(stdout);

  const SeedSource source = source_of(line, clusters.vocab_size);
  const TrainingSettings dense = dense_settings(line, source_spec(source), clusters.train_tokens(), clusters.clusters);
  const TrainingSettings expert = expert_settings(dense, clusters.clusters, match_batch(line));
  train_run_seed(devices.all(), run, source, seed_settings(line, dense, source, clusters.train_tokens()), redo,
                 line.as_typed());
  train_run_branch(devices.all(), run, kBaseline, dense, redo, line.as_typed());
  if (const std::optional<Upcycling> upcycling = mixture_of(line, source_spec(source)))
    train_run_mixture(devices.all(), run, *upcycling, dense, redo, line.as_typed());
  train_run_experts(devices.all(), run, expert, redo, line.as_typed());

  const EvaluationSummary evaluation = evaluate_run(devices.front(), run, dense.memory_bytes, redo, line.as_typed());
  write_report(run);
  fmt::print("\n");
  print_evaluation(evaluation);
  fmt::print("report: {}\n", run.report().string());
  warn_of_lost_files(clusters.corpus);
  line.write_json({{"clusters", cluster_manifest_json(clusters)},
                   {"evaluation", evaluation_summary_json(evaluation)},
                   {"cost", cost_of(run, source_spec(source), clusters.clusters)},
                   {"report", run.report().string()}});
  return kExitSuccess;
}

}  // namespace cbtm
