#include "cbtm/train/run_training.h"

#include <algorithm>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/file_lock.h"
#include "cbtm/base/hash.h"
#include "cbtm/base/progress.h"
#include "cbtm/checkpoint/checkpoint.h"
#include "cbtm/model/training_model.h"
#include "cbtm/tokenizer/tokenizer.h"

namespace cbtm {
namespace {

/// Whether a stage still has to run; says so if not, refuses if it was made from something else. `work`: where it kept
/// its states, of which a process killed at its very end may have left some.
bool due(const RunDirectory& run, const StageRecord& wanted, const std::filesystem::path& result,
         const std::filesystem::path& work, bool redo) {
  recover_directory(result);
  std::string difference;
  const StageState state = std::filesystem::exists(result) ? stage_state(run, wanted, difference) : StageState::missing;
  if (state == StageState::missing || (state == StageState::changed && redo)) return true;
  if (state == StageState::changed)
    fail("{}: it was trained from something else ({}); pass --redo to train it again", result.string(), difference);
  forget_training_state(work);
  say(fmt::format("{}: done already, in {}", wanted.name, result.string()));
  return false;
}

std::string shard_hash(const RunDirectory& run, int64_t cluster) {
  return hash_file_hex(run.shard(cluster) / "train.bin") + hash_file_hex(run.shard(cluster) / "train.idx");
}

void copy_one_file(const std::filesystem::path& from, const std::filesystem::path& to) {
  std::error_code error;
  std::filesystem::copy_file(from, to, std::filesystem::copy_options::overwrite_existing, error);
  if (error) fail("{}: cannot be copied to {}: {}", from.string(), to.string(), error.message());
}

/// A trained model with everything that belongs beside it, whole or not at all.
void write_model(const std::filesystem::path& directory, const OptConfig& config, std::span<const float> parameters,
                 const RunDirectory& run, const TrainingJob& job, const Json& card) {
  AtomicDirectory output(directory);
  write_opt_checkpoint(output.path(), config, parameters);
  Tokenizer::load(run.tokenizer()).save(output.path());
  write_json_file(output.path() / "expert.json", card);
  if (std::filesystem::exists(job.work_directory / "metrics.jsonl"))
    copy_one_file(job.work_directory / "metrics.jsonl", output.path() / "metrics.jsonl");
  output.commit();
}

Json summary_of(const TrainingResult& result) {
  return {{"steps", result.steps},
          {"tokens", result.tokens},
          {"skipped_steps", result.skipped_steps},
          {"loss", result.loss},
          {"held_out_loss", result.validation_loss},
          {"training_seconds", result.seconds}};
}

std::vector<std::filesystem::path> shard_prefixes(const RunDirectory& run, int64_t first, int64_t count,
                                                  const char* split) {
  std::vector<std::filesystem::path> prefixes;
  for (int64_t cluster = first; cluster < first + count; ++cluster) prefixes.push_back(run.shard(cluster) / split);
  return prefixes;
}

std::vector<float> parameters_of(const OptCheckpoint& checkpoint) {
  std::vector<float> flat(static_cast<size_t>(checkpoint.layout().flat_size()));
  checkpoint.read_parameters(DType::f32, flat.data());
  return flat;
}

std::string hash_of(std::span<const float> parameters) {
  return hash_hex({reinterpret_cast<const char*>(parameters.data()), parameters.size() * 4});
}

/// Reads the checkpoint whose parameters have this hash straight to where a training wants its weights.
WeightSource weights_of(const std::filesystem::path& directory, const std::string& hash) {
  return [directory, hash](std::span<float> weights) {
    OptCheckpoint::open(directory).read_parameters(DType::f32, weights.data());
    if (hash_of(weights) != hash)
      fail("{}: the model changed while it was read; run the same command again", directory.string());
  };
}

/// The run's router beside the experts, so that these can be carried off. The same one already there is left alone: its
/// temperature may have been tuned. Experts may finish at the same time.
void put_router(const RunDirectory& run) {
  const FileLock lock(run.experts() / ".router.lock");
  recover_directory(run.experts_router());
  constexpr const char* kTensors = "router.safetensors";
  if (std::filesystem::exists(run.experts_router() / kTensors) &&
      hash_file_hex(run.experts_router() / kTensors) == hash_file_hex(run.router() / kTensors))
    return;
  AtomicDirectory output(run.experts_router());
  for (const auto& entry : std::filesystem::directory_iterator(run.router()))
    copy_one_file(entry.path(), output.path() / entry.path().filename());
  output.commit();
}

std::filesystem::path work_directory(const RunDirectory& run, int64_t cluster) {
  return run.root() / "training" /
         (cluster == kBaseline ? "baseline" : "expert-" + RunDirectory::cluster_name(cluster));
}

}  // namespace

Json read_clusters(const RunDirectory& run) {
  if (!std::filesystem::exists(run.clusters_json()))
    fail(
        "{}: holds no clusters.json, so there are no shards to train on; run cbtm cluster --corpus ... --out {} first, "
        "or name another --run",
        run.root().string(), run.root().string());
  const Json clusters = read_json_file(run.clusters_json());
  const auto check = [&](bool good, const std::string& what) {
    if (!good) fail("{}: {}; the file is damaged, cluster again with --redo", run.clusters_json().string(), what);
  };
  const auto holds = [&](const char* name, bool (Json::*is)() const noexcept) {
    check(clusters.is_object() && clusters.contains(name) && (clusters[name].*is)(),
          fmt::format("{} is missing or of the wrong type", name));
  };
  holds("clusters", &Json::is_number_integer);
  holds("vocab_size", &Json::is_number_integer);
  holds("router_hash", &Json::is_string);
  holds("tokenizer_hash", &Json::is_string);
  holds("sizes", &Json::is_array);
  holds("top_terms", &Json::is_array);
  const auto count = clusters["clusters"].get<int64_t>();
  check(count > 0 && static_cast<int64_t>(clusters["sizes"].size()) == count &&
            static_cast<int64_t>(clusters["top_terms"].size()) == count,
        "sizes and top_terms do not fit the number of clusters");
  for (const Json& size : clusters["sizes"])
    check(size.is_object() && size.contains("train_tokens") && size["train_tokens"].is_number_integer(),
          "sizes lack train_tokens");
  return clusters;
}

int64_t train_tokens(const Json& clusters) {
  int64_t tokens = 0;
  for (const Json& size : clusters["sizes"]) tokens += size["train_tokens"].get<int64_t>();
  return tokens;
}

TrainingSettings expert_settings(const TrainingSettings& dense, int64_t clusters, bool keep_batch) {
  TrainingSettings expert = dense;
  if (keep_batch) {
    expert.steps = (dense.steps + clusters - 1) / clusters;
    expert.warmup_steps = dense.warmup_steps / clusters;
    return expert;
  }
  if (dense.batch_sequences % clusters != 0)
    fail_usage(
        "the dense batch of {} sequences of {} tokens cannot be divided among {} experts; make --batch-tokens a "
        "multiple of {}, or pass --match batch",
        dense.batch_sequences, dense.sequence_length, clusters, dense.sequence_length * clusters);
  expert.batch_sequences = dense.batch_sequences / clusters;
  return expert;
}

void train_run_seed(std::span<Device* const> devices, const RunDirectory& run, const SeedSource& source,
                    const TrainingSettings& settings, bool redo, const std::string& command) {
  const Json clusters = read_clusters(run);
  const auto count = clusters["clusters"].get<int64_t>();
  const Tokenizer tokenizer = Tokenizer::load(run.tokenizer());
  StageRecord record{.name = "seed",
                     .settings = training_settings_json(settings),
                     .inputs = {{"tokenizer", tokenizer.content_hash()}},
                     .command = command};
  OptConfig config;
  WeightSource start;
  if (source.init.empty()) {
    config = *source.config;
    start = initial_weights(config, settings.seed);
    record.settings["config"] = opt_config_json(config, "float32");
  } else {
    const OptCheckpoint checkpoint = OptCheckpoint::open(source.init);
    config = checkpoint.config();
    const std::string hash = hash_of(parameters_of(checkpoint));
    record.inputs["init"] = hash;
    start = weights_of(source.init, hash);
  }
  if (config.vocab_size < tokenizer.vocab_size())
    fail(
        "the model's vocabulary of {} is smaller than the tokenizer's {}; give the tokenizer that belongs to it "
        "(--tokenizer)",
        config.vocab_size, tokenizer.vocab_size());
  if (settings.steps > 0)
    record.inputs["shards"] = clusters["router_hash"].get<std::string>() + "/" + std::to_string(train_tokens(clusters));
  const std::filesystem::path work = run.root() / "training" / "seed";
  if (!due(run, record, run.seed(), work, redo)) return;

  TrainingJob job{.name = "seed",
                  .config = config,
                  .train_prefixes = shard_prefixes(run, 0, count, "train"),
                  .held_out_prefixes = shard_prefixes(run, 0, count, "tune"),
                  .work_directory = work,
                  .identity = record.inputs};
  if (redo) forget_other_training_state(devices, job, settings);
  TrainingResult result;
  if (settings.steps > 0) {
    result = train_model(devices, job, settings, start);
  } else {
    std::vector<float> parameters(static_cast<size_t>(ParameterLayout(config).flat_size()));
    start(parameters);
    result.parameters = TrainedWeights(std::move(parameters));
  }
  write_model(run.seed(), config, result.parameters, run, job,
              {{"kind", "seed"},
               {"settings", record.settings},
               {"training", summary_of(result)},
               {"tokenizer_hash", tokenizer.content_hash()}});
  record.seconds = result.seconds;
  record.summary = summary_of(result);
  record_stage(run, record);
  forget_training_state(job.work_directory);
}

void train_run_branch(std::span<Device* const> devices, const RunDirectory& run, int64_t cluster,
                      const TrainingSettings& settings, bool redo, const std::string& command) {
  const Json clusters = read_clusters(run);
  const auto count = clusters["clusters"].get<int64_t>();
  const bool baseline = cluster == kBaseline;
  if (!baseline && (cluster < 0 || cluster >= count))
    fail_usage("--shard {}: the run has the shards 0 to {}", cluster, count - 1);
  recover_directory(run.seed());
  if (!std::filesystem::exists(run.seed()))
    fail("{}: there is no seed to branch from; run cbtm train_seed --run {} first", run.seed().string(),
         run.root().string());
  const std::filesystem::path result_path = baseline ? run.baseline() : run.expert(cluster);
  const std::string name = baseline ? "baseline" : "expert/" + RunDirectory::cluster_name(cluster);

  StageRecord record{.name = name,
                     .settings = training_settings_json(settings),
                     .inputs = {{"tokenizer", clusters["tokenizer_hash"]}},
                     .command = command};
  OptConfig config;
  {  // neither the file nor its copy is kept while the training runs
    const OptCheckpoint seed = OptCheckpoint::open(run.seed());
    config = seed.config();
    record.inputs["seed"] = hash_of(parameters_of(seed));
  }
  if (baseline) {
    record.inputs["shards"] = clusters["router_hash"].get<std::string>() + "/" + std::to_string(train_tokens(clusters));
  } else {
    record.inputs["shard"] = shard_hash(run, cluster);
    record.inputs["router"] = clusters["router_hash"];
  }
  const std::filesystem::path work = work_directory(run, cluster);
  if (!due(run, record, result_path, work, redo)) return;

  TrainingJob job{
      .name = baseline ? "dense baseline" : "expert " + RunDirectory::cluster_name(cluster),
      .config = config,
      .train_prefixes = baseline ? shard_prefixes(run, 0, count, "train") : shard_prefixes(run, cluster, 1, "train"),
      .held_out_prefixes = baseline ? shard_prefixes(run, 0, count, "tune") : shard_prefixes(run, cluster, 1, "tune"),
      .work_directory = work,
      .identity = record.inputs};
  if (redo) forget_other_training_state(devices, job, settings);
  Json card = {{"kind", baseline ? "baseline" : "expert"},
               {"tokenizer_hash", clusters["tokenizer_hash"]},
               {"seed_hash", record.inputs["seed"]},
               {"settings", record.settings}};
  if (!baseline) {
    card["cluster"] = cluster;
    card["clusters"] = count;
    card["router_hash"] = clusters["router_hash"];
    card["top_terms"] = clusters["top_terms"][static_cast<size_t>(cluster)];
  }
  job.snapshot = [&](int64_t number, std::span<const float> weights) {
    const RunDirectory place(run.snapshot(number));
    write_model(baseline ? place.baseline() : place.expert(cluster), config, weights, run, job, card);
  };
  const TrainingResult result = train_model(devices, job, settings, weights_of(run.seed(), record.inputs["seed"]));
  card["training"] = summary_of(result);
  write_model(result_path, config, result.parameters, run, job, card);
  if (!baseline) put_router(run);
  record.seconds = result.seconds;
  record.summary = summary_of(result);
  record_stage(run, record);
  forget_training_state(job.work_directory);
}

}  // namespace cbtm
