#include "cbtm/pipeline/training_stages.h"

#include <fmt/format.h>

#include <cmath>
#include <optional>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/hash.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/model/expert_card.h"
#include "cbtm/model/families.h"
#include "cbtm/model/training_model.h"
#include "cbtm/pipeline/stage.h"
#include "cbtm/run/cluster_manifest.h"
#include "cbtm/run/device_use.h"
#include "cbtm/run/training_summary.h"
#include "cbtm/tokenizer/tokenizer.h"
#include "pipeline/model_output.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;

/// What lies in a model's directory. What it was trained from stands in its own expert.json. With `redo` a model
/// without a readable one may be replaced.
std::optional<FoundResult> find_model(const fs::path& directory, bool redo) {
  recover_directory(directory);
  std::error_code error;
  if (!fs::exists(directory) || fs::is_empty(directory, error)) return std::nullopt;
  std::optional<ExpertCard> card;
  try {
    card = read_expert_card(directory);
  } catch (const Error&) {
    if (!redo) throw;
  }
  if (!card || card->inputs.is_null()) {
    if (redo) return FoundResult{.problem = "nothing says what it was trained from"};
    fail(
        "{}: a model is there, but no record of what it was trained from; pass --redo to train another in its place, "
        "or move it away",
        directory.string());
  }
  FoundResult found{.hash = card->weights_hash,
                    .own = StageSummary{.settings = card->settings, .inputs = card->inputs, .command = card->command},
                    .own_file = "its expert.json"};
  if (!card->training.is_object()) return found;
  found.own->numbers = card->training;
  const double seconds = parse_training_summary(card->training, (directory / "expert.json").string()).training_seconds;
  found.own->seconds = std::isnan(seconds) ? 0 : seconds;
  return found;
}

/// The stage that trains a model into `directory`, but for its settings, inputs and make.
Stage model_stage(const std::string& name, const fs::path& directory, bool redo, const std::string& command) {
  return {.name = name,
          .command = command,
          .result = directory,
          .directories = {directory},
          .find = [directory, redo] { return find_model(directory, redo); },
          .changed = fmt::format("{}: it was trained from something else", directory.string()),
          .remedy = "pass --redo to train it again"};
}

Json summary_of(std::span<Device* const> devices, const TrainingResult& result) {
  Json summary = training_summary_json({.steps = result.steps,
                                        .tokens = result.tokens,
                                        .skipped_steps = result.skipped_steps,
                                        .loss = result.loss,
                                        .held_out_loss = result.validation_loss,
                                        .training_seconds = result.seconds});
  add_device_use(summary, {.devices = static_cast<int64_t>(devices.size()),
                           .device = devices.front()->description(),
                           .device_seconds = result.device_seconds});
  return summary;
}

std::vector<std::filesystem::path> shard_prefixes(const RunDirectory& run, int64_t first, int64_t count,
                                                  const char* split) {
  std::vector<std::filesystem::path> prefixes;
  for (int64_t cluster = first; cluster < first + count; ++cluster) prefixes.push_back(run.shard(cluster) / split);
  return prefixes;
}

std::vector<float> parameters_of(const ModelCheckpoint& checkpoint) {
  std::vector<float> flat(static_cast<size_t>(checkpoint.layout().flat_size()));
  checkpoint.read_parameters(DType::f32, flat.data());
  return flat;
}

std::string hash_of(std::span<const float> parameters) {
  return hash_hex({reinterpret_cast<const char*>(parameters.data()), parameters.size() * 4});
}

/// Reads the checkpoint whose parameters have this hash straight to where a training wants its weights.
ParameterSource weights_of(const std::filesystem::path& directory, const std::string& hash) {
  return [directory, hash](std::span<float> weights) {
    ModelCheckpoint::open(directory).read_parameters(DType::f32, weights.data());
    if (hash_of(weights) != hash)
      fail("{}: the model changed while it was read; run the same command again", directory.string());
  };
}

/// The same of the mixture of experts that is made of it.
ParameterSource upcycled_weights_of(const std::filesystem::path& directory, const std::string& hash,
                                    const Upcycling& upcycling) {
  return [directory, hash, upcycling](std::span<float> weights) {
    const ModelSpec dense = ModelCheckpoint::open(directory).spec();
    std::vector<float> parameters(static_cast<size_t>(ParameterLayout(dense).flat_size()));
    weights_of(directory, hash)(parameters);
    upcycle_parameters(dense, upcycling, parameters, weights);
  };
}

/// What is trained on and what the running loss comes from.
void verify_shards(const RunDirectory& run, const ClusterManifest& clusters, int64_t first, int64_t count) {
  for (int64_t cluster = first; cluster < first + count; ++cluster)
    for (const char* split : {"train", "tune"}) verify_shard(run, clusters, cluster, split);
}

/// The shards' ids are of one tokenizer, which goes into every model's directory.
void check_run_tokenizer(const RunDirectory& run, const ClusterManifest& clusters, const Tokenizer& tokenizer) {
  if (clusters.tokenizer_hash == tokenizer.content_hash()) return;
  fail(
      "{}: is not the tokenizer that the shards were made with; it was changed or damaged: restore it, or cluster "
      "again "
      "with --redo",
      run.tokenizer().string());
}

/// Names the training data of all shards together.
std::string all_shards_hash(const ClusterManifest& clusters) {
  return clusters.router_hash + "/" + std::to_string(clusters.train_tokens());
}

/// The seed's model before training: its shape, and where its weights come from.
struct SeedStart {
  ModelSpec spec;
  ParameterSource weights;
};

/// The average as a start; `hash` is that of its parameters.
ParameterSource weights_of(const AverageSource& average, const std::string& hash) {
  return [average, hash](std::span<float> weights) {
    const std::vector<float> parameters = average_parameters(*average.experts, average.weights);
    if (hash_of(parameters) != hash) fail("the experts changed while they were averaged; run the same command again");
    std::copy(parameters.begin(), parameters.end(), weights.begin());
  };
}

/// Adds to the stage what the start is.
SeedStart seed_start(const SeedSource& source, const TrainingSettings& settings, const Tokenizer& tokenizer,
                     Stage& stage) {
  if (source.average) {
    const ExpertSet& experts = *source.average->experts;
    if (experts.tokenizer().content_hash() != tokenizer.content_hash())
      fail(
          "the experts to average have another tokenizer than the run's shards; cluster the corpus with theirs "
          "(--tokenizer {})",
          experts.experts().front().directory.string());
    stage.settings["init_average"] = source.average->description;
    const std::string hash = hash_of(average_parameters(experts, source.average->weights));
    stage.inputs["init"] = hash;
    return {average_spec(*source.average), weights_of(*source.average, hash)};
  }
  if (source.is_new()) {
    stage.settings["config"] = model_config_json(*source.spec, "float32");
    return {*source.spec, initial_weights(*source.spec, settings.seed)};
  }
  const ModelCheckpoint checkpoint = ModelCheckpoint::open(source.init);
  const std::string hash = hash_of(parameters_of(checkpoint));
  stage.inputs["init"] = hash;
  return {checkpoint.spec(), weights_of(source.init, hash)};
}

}  // namespace

ModelSpec average_spec(const AverageSource& average) {
  for (const Expert& expert : average.experts->experts())
    if (average.weights[static_cast<size_t>(expert.cluster)] > 0)
      return read_model_spec(model_config_file(expert.directory));
  CBTM_ASSERT(false, "some expert has a weight");
  return {};
}

FileLock lock_shards_for_reading(const RunDirectory& run) {
  FileLock lock(run.clusters_lock(), FileLock::Wait::no, FileLock::Mode::shared);
  if (!lock.held())
    fail("{}: another process is making its shards; wait for its end, then give the same command", run.root().string());
  return lock;
}

void train_run_seed(std::span<Device* const> devices, const RunDirectory& run, const SeedSource& source,
                    const TrainingSettings& settings, bool redo, const std::string& command) {
  const ClusterManifest clusters = read_clusters(run);
  const Tokenizer tokenizer = Tokenizer::load(run.tokenizer());
  check_run_tokenizer(run, clusters, tokenizer);
  Stage stage = model_stage("seed", run.seed(), redo, command);
  stage.settings = training_settings_json(settings);
  stage.inputs = {{"tokenizer", tokenizer.content_hash()}};
  const SeedStart start = seed_start(source, settings, tokenizer, stage);
  if (start.spec.embedding.vocab_size < tokenizer.vocab_size())
    fail(
        "the model's vocabulary of {} is smaller than the tokenizer's {}; give the tokenizer that belongs to it "
        "(--tokenizer)",
        start.spec.embedding.vocab_size, tokenizer.vocab_size());
  if (settings.steps > 0) stage.inputs["shards"] = all_shards_hash(clusters);
  const TrainingJob job{.name = "seed",
                        .spec = start.spec,
                        .train_prefixes = shard_prefixes(run, 0, clusters.clusters, "train"),
                        .held_out_prefixes = shard_prefixes(run, 0, clusters.clusters, "tune"),
                        .work_directory = run.root() / "training" / "seed",
                        .identity = stage.inputs};
  stage.make = [&]() -> StageResult {
    if (redo) forget_other_training_state(devices, job, settings);
    TrainingResult result;
    if (settings.steps > 0) {
      verify_shards(run, clusters, 0, clusters.clusters);
      result = train_model(devices, job, settings, start.weights);
    } else {
      std::vector<float> parameters(static_cast<size_t>(ParameterLayout(start.spec).flat_size()));
      start.weights(parameters);
      result.parameters = TrainedWeights(std::move(parameters));
    }
    ExpertCard card{.kind = "seed",
                    .settings = stage.settings,
                    .inputs = stage.inputs,
                    .training = summary_of(devices, result),
                    .command = command,
                    .tokenizer_hash = tokenizer.content_hash()};
    write_model(run.seed(), start.spec, result.parameters, run, job, card);
    return {.hash = card.weights_hash, .numbers = card.training, .seconds = result.seconds};
  };
  run_stage(run, stage, redo);
  forget_training_state(job.work_directory);  // a process that was killed at its very end may have left some
}

namespace {

/// What branches from the seed: an expert, or a baseline: the dense one, or, with `upcycling`, a mixture of experts.
struct BranchKind {
  int64_t cluster = kBaseline;
  std::optional<Upcycling> upcycling = {};

  bool is_baseline() const { return cluster == kBaseline; }
  std::string cluster_name() const { return RunDirectory::cluster_name(cluster); }
  std::string stage() const {
    if (upcycling) return "moe";
    return is_baseline() ? "baseline" : "expert/" + cluster_name();
  }
  std::filesystem::path directory(const RunDirectory& run) const {
    if (upcycling) return run.mixture();
    return is_baseline() ? run.baseline() : run.expert(cluster);
  }
};

/// Its training.
class Branch {
 public:
  Branch(std::span<Device* const> devices, const RunDirectory& run, BranchKind kind, const TrainingSettings& settings,
         bool redo, const std::string& command)
      : devices_(devices),
        run_(run),
        kind_(std::move(kind)),
        cluster_(kind_.cluster),
        settings_(settings),
        redo_(redo),
        clusters_(read_clusters(run)),
        stage_(model_stage(kind_.stage(), kind_.directory(run), redo, command)) {
    const int64_t cluster = cluster_;
    if (!is_baseline() && (cluster < 0 || cluster >= clusters_.clusters))
      fail_usage("--shard {}: the run has the shards 0 to {}", cluster, clusters_.clusters - 1);
    check_seed();
    check_run_tokenizer(run, clusters_, Tokenizer::load(run.tokenizer()));
    describe_stage();
    describe_job();
  }

  void run() {
    stage_.make = [this] { return make(); };
    run_stage(run_, stage_, redo_);
    if (!is_baseline()) put_router(run_);
    forget_training_state(job_.work_directory);  // a process that was killed at its very end may have left some
  }

 private:
  bool is_baseline() const { return kind_.is_baseline(); }
  std::string cluster_name() const { return kind_.cluster_name(); }

  void check_seed() const {
    recover_directory(run_.seed());
    if (!fs::exists(run_.seed()))
      fail("{}: there is no seed to branch from; run cbtm train_seed --run {} first", run_.seed().string(),
           run_.root().string());
  }

  void describe_stage() {
    stage_.settings = training_settings_json(settings_);
    stage_.inputs = {{"tokenizer", clusters_.tokenizer_hash}};
    {  // neither the file nor its copy is kept while the training runs
      const ModelCheckpoint seed = ModelCheckpoint::open(run_.seed());
      job_.spec = kind_.upcycling ? upcycled_spec(seed.spec(), *kind_.upcycling) : seed.spec();
      seed_hash_ = hash_of(parameters_of(seed));
    }
    stage_.inputs["seed"] = seed_hash_;
    if (kind_.upcycling) stage_.settings["mixture"] = upcycling_json(*kind_.upcycling);
    if (is_baseline()) {
      stage_.inputs["shards"] = all_shards_hash(clusters_);
    } else {
      stage_.inputs["shard"] = shard_training_hash(run_, clusters_, cluster_);
      stage_.inputs["router"] = clusters_.router_hash;
    }
  }

  int64_t first_shard() const { return is_baseline() ? 0 : cluster_; }
  int64_t shard_count() const { return is_baseline() ? clusters_.clusters : 1; }

  void describe_job() {
    job_.name = kind_.upcycling ? "mixture of experts" : is_baseline() ? "dense baseline" : "expert " + cluster_name();
    job_.train_prefixes = shard_prefixes(run_, first_shard(), shard_count(), "train");
    job_.held_out_prefixes = shard_prefixes(run_, first_shard(), shard_count(), "tune");
    job_.work_directory = run_.root() / "training" / (is_baseline() ? kind_.stage() : "expert-" + cluster_name());
    job_.identity = stage_.inputs;
    if (kind_.upcycling) {
      job_.identity["mixture"] = stage_.settings["mixture"];
      return;  // the curve of gain against budget is that of the ensemble and the dense baseline
    }
    job_.snapshot = [this](int64_t number, std::span<const float> weights) { write_snapshot(number, weights); };
  }

  ExpertCard card() const {
    ExpertCard card{.kind = is_baseline() ? kind_.stage() : "expert",
                    .settings = stage_.settings,
                    .inputs = stage_.inputs,
                    .command = stage_.command,
                    .tokenizer_hash = clusters_.tokenizer_hash,
                    .seed_hash = seed_hash_};
    if (is_baseline()) return card;
    card.router_hash = clusters_.router_hash;
    card.cluster = cluster_;
    card.clusters = clusters_.clusters;
    card.top_terms = clusters_.top_terms[static_cast<size_t>(cluster_)];
    return card;
  }

  void write_snapshot(int64_t number, std::span<const float> weights) const {
    const RunDirectory place(run_.snapshot(number));
    ExpertCard own = card();
    own.snapshot_step = number * settings_.steps / (settings_.snapshots + 1);
    own.snapshot_tokens = own.snapshot_step * settings_.batch_sequences * settings_.sequence_length;
    write_model(is_baseline() ? place.baseline() : place.expert(cluster_), job_.spec, weights, run_, job_, own);
  }

  StageResult make() const {
    if (redo_) forget_other_training_state(devices_, job_, settings_);
    verify_shards(run_, clusters_, first_shard(), shard_count());
    const ParameterSource start = kind_.upcycling ? upcycled_weights_of(run_.seed(), seed_hash_, *kind_.upcycling)
                                                  : weights_of(run_.seed(), seed_hash_);
    const TrainingResult result = train_model(devices_, job_, settings_, start);
    if (read_clusters(run_).router_hash != clusters_.router_hash)
      fail(
          "{}: the run was clustered again while {} was trained; the trained state stays in {}, and nothing was put in "
          "place of what is there: train it again on the new shards with --redo",
          run_.root().string(), job_.name, job_.work_directory.string());
    ExpertCard finished = card();
    finished.training = summary_of(devices_, result);
    write_model(stage_.result, job_.spec, result.parameters, run_, job_, finished);
    return {.hash = finished.weights_hash, .numbers = finished.training, .seconds = result.seconds};
  }

  std::span<Device* const> devices_;
  const RunDirectory& run_;
  BranchKind kind_;
  int64_t cluster_;
  const TrainingSettings& settings_;
  bool redo_;
  ClusterManifest clusters_;
  Stage stage_;
  TrainingJob job_;
  std::string seed_hash_;
};

}  // namespace

void train_run_branch(std::span<Device* const> devices, const RunDirectory& run, int64_t cluster,
                      const TrainingSettings& settings, bool redo, const std::string& command) {
  Branch(devices, run, {.cluster = cluster}, settings, redo, command).run();
}

void train_run_mixture(std::span<Device* const> devices, const RunDirectory& run, const Upcycling& upcycling,
                       const TrainingSettings& settings, bool redo, const std::string& command) {
  Branch(devices, run, {.upcycling = upcycling}, settings, redo, command).run();
}

}  // namespace cbtm
