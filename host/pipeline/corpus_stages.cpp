#include "cbtm/pipeline/corpus_stages.h"

#include <fmt/format.h>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/error.h"
#include "cbtm/base/hash.h"
#include "cbtm/base/progress.h"
#include "cbtm/corpus/spool.h"
#include "cbtm/pipeline/stage.h"
#include "cbtm/run/device_use.h"
#include "cbtm/tokenizer/tokenizer.h"
#include "pipeline/own_outputs.h"

namespace cbtm {
namespace {

constexpr const char* kCorpusHashes = "corpus-hashes.json";  // of each file, so that only changed ones are read again

/// The record of the stages that read the corpus, if they were made, holds what it was.
bool made_from_a_corpus(const RunDirectory& run) {
  for (const char* name : {"tokenizer", "cluster"})
    if (const auto record = find_stage(run, name); record && record->inputs.contains("corpus")) return true;
  return false;
}

/// What is said of a stage whose result was made from something else.
void describe_change(const RunDirectory& run, Stage& stage) {
  stage.changed = fmt::format("{}: the stage '{}' was made from something else", run.root().string(), stage.name);
  stage.remedy = "pass --redo to make it again, or another --run";
}

/// The tokenizer that lies in the run; one that cannot be read is made again. Its record stands in run.json only.
std::optional<FoundResult> find_tokenizer(const RunDirectory& run) {
  recover_directory(run.tokenizer());
  if (!std::filesystem::exists(run.tokenizer())) return std::nullopt;
  try {
    return FoundResult{.hash = Tokenizer::load(run.tokenizer()).content_hash()};
  } catch (const Error& error) {
    warn(fmt::format("{}; it is made again", error.what()));
    return FoundResult{.hash = "damaged"};
  }
}

/// What the clusters were made from stands in the set itself, which appeared whole.
std::optional<FoundResult> find_clusters(const RunDirectory& run, bool redo, const std::string& command) {
  recover_directory(run.shards());
  const std::filesystem::path file = run.shards_clusters_json();
  if (!std::filesystem::exists(file)) return std::nullopt;
  try {
    const ClusterManifest clusters = read_clusters(run);
    return FoundResult{.hash = hash_file_hex(file),
                       .own = StageSummary{.settings = clusters.settings,
                                           .inputs = clusters.inputs,
                                           .command = clusters.command.empty() ? command : clusters.command},
                       .own_file = "clusters.json"};
  } catch (const Error&) {
    if (!redo) throw;
  }
  return FoundResult{.problem = "it is damaged"};
}

}  // namespace

CorpusOptions corpus_of_run(CorpusOptions options, const RunDirectory& run, bool redo) {
  options.exclude.push_back(run.root());
  check_corpus(options);
  exclude_own_outputs(options, run);
  spool_streams(options, run.root(), redo && made_from_a_corpus(run));
  return options;
}

FileLock lock_clusters(const RunDirectory& run) {
  FileLock lock(run.clusters_lock(), FileLock::Wait::no);
  if (!lock.held())
    fail("{}: another process is making or using its shards; wait for its end, or name another --run",
         run.root().string());
  return lock;
}

void make_run_tokenizer(const RunDirectory& run, const TokenizerSource& source, const CorpusOptions& corpus, bool redo,
                        const std::string& command) {
  Stage stage{.name = "tokenizer",
              .settings = Json::object(),
              .inputs = Json::object(),
              .command = command,
              .result = run.tokenizer(),
              .directories = {run.tokenizer()},
              .find = [&] { return find_tokenizer(run); }};
  describe_change(run, stage);
  if (!source.given.empty()) {
    const Tokenizer given = Tokenizer::load(source.given);
    stage.inputs["tokenizer"] = given.content_hash();
    stage.make = [&]() -> StageResult {
      AtomicDirectory output(run.tokenizer());
      given.save(output.path());
      output.commit();
      return {.hash = given.content_hash(), .seconds = 0.0};
    };
    run_stage(run, stage, redo);
    return;
  }
  stage.settings = {{"vocab_size", source.vocab_size}, {"min_frequency", source.min_frequency}};
  stage.inputs["corpus"] = corpus_fingerprint(corpus, run.root() / kCorpusHashes);
  stage.make = [&]() -> StageResult {
    CorpusStatistics read;  // clustering reads the same again and says what is bad
    Json learnt = train_corpus_tokenizer(corpus, source.vocab_size, source.min_frequency, kTokenizerTextBytesMax,
                                         run.tokenizer(), read);
    add_device_use(learnt, {.devices = 1, .device = "host"});
    return {.hash = learnt["content_hash"], .numbers = learnt};
  };
  run_stage(run, stage, redo);
}

ClusterManifest make_run_clusters(Device& device, const RunDirectory& run, const ClusterOptions& options,
                                  std::optional<PrefixClusteringOptions> prefix, bool redo,
                                  const std::string& command) {
  const Tokenizer tokenizer = Tokenizer::load(run.tokenizer());
  Stage stage{.name = "cluster",
              .settings = cluster_settings(options),
              .inputs = {{"corpus", corpus_fingerprint(options.corpus, run.root() / kCorpusHashes)},
                         {"tokenizer", tokenizer.content_hash()}},
              .command = command,
              .result = run.shards(),
              .directories = {run.shards(), run.router()},
              .find = [&] { return find_clusters(run, redo, command); }};
  describe_change(run, stage);
  const std::filesystem::path work = run.root() / "training" / "router";
  DivideCorpus divide;
  if (prefix) {
    constexpr int64_t kVocabMultiple = 16;  // as of other new models
    prefix->spec.embedding.vocab_size = round_up(tokenizer.vocab_size(), kVocabMultiple);
    stage.settings["prefix"] = prefix_clustering_json(*prefix);
    divide = [&](const HeldOutSplit& split, const CorpusDigest& counted) -> RouterDivision {
      const Json identity = {{"settings", stage.settings}, {"inputs", stage.inputs}};
      PrefixClustering made =
          cluster_by_prefix(device, tokenizer, options.corpus, split, counted, *prefix, work, identity);
      return {.router = std::move(made.router),
              .labels = std::move(made.labels),
              .documents = made.documents,
              .objectives = std::move(made.losses),
              .duality_gap = made.relative_gap};
    };
  }
  stage.make = [&]() -> StageResult {
    cluster_corpus(device, tokenizer, options, run, {stage.settings, stage.inputs, command}, divide);
    Json numbers;
    add_device_use(numbers, {.devices = 1, .device = device.description()});
    return {.hash = hash_file_hex(run.shards_clusters_json()), .numbers = numbers};
  };
  run_stage(run, stage, redo);
  if (prefix) remove_prefix_state(work);
  return read_clusters(run);
}

void refuse_empty_shards(const RunDirectory& run, const ClusterManifest& clusters) {
  if (const std::string empty = empty_shards(clusters.sizes); !empty.empty())
    fail("{}: {}", run.clusters_json().string(), empty);
}

}  // namespace cbtm
