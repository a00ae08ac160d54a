#include "cbtm/train/run_training.h"

#include <algorithm>
#include <optional>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/file_lock.h"
#include "cbtm/base/hash.h"
#include "cbtm/base/progress.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/model/expert_card.h"
#include "cbtm/model/families.h"
#include "cbtm/model/training_model.h"
#include "cbtm/tokenizer/tokenizer.h"

namespace cbtm {
namespace {

/// Whether a model still has to be trained; says so if not, refuses if it was trained from something else. What it was
/// trained from stands in its own expert.json, which appeared with it; run.json is brought up to date from there.
/// `work`: where the training kept its states, of which a process killed at its very end may have left some.
bool due(const RunDirectory& run, const StageRecord& wanted, const std::filesystem::path& result,
         const std::filesystem::path& work, bool redo) {
  recover_directory(result);
  std::error_code error;
  if (!std::filesystem::exists(result) || std::filesystem::is_empty(result, error)) {
    check_replaceable(result);
    return true;
  }
  if (redo) {
    std::optional<ExpertCard> card;
    try {
      card = read_expert_card(result);
    } catch (const Error&) {  // damaged: --redo makes it again
    }
    if (!card || card->inputs.is_null() || !stage_difference(card->settings, card->inputs, wanted).empty()) {
      check_replaceable(result);
      return true;
    }
  }
  const std::optional<ExpertCard> card = read_expert_card(result);
  if (!card || card->inputs.is_null())
    fail(
        "{}: a model is there, but no record of what it was trained from; pass --redo to train another in its place, "
        "or "
        "move it away",
        result.string());
  if (const std::string difference = stage_difference(card->settings, card->inputs, wanted); !difference.empty())
    fail("{}: it was trained from something else ({}); pass --redo to train it again", result.string(), difference);
  StageRecord record = wanted;
  record.result = card->weights_hash;
  std::string ignored;
  if (stage_state(run, record, ignored) != StageState::current) {
    record.command = card->command;
    record.summary = card->training.is_object() ? card->training : Json::object();
    record.seconds = record.summary.contains("training_seconds") && record.summary["training_seconds"].is_number()
                         ? record.summary["training_seconds"].get<double>()
                         : 0.0;
    record_stage(run, record);
    say(fmt::format("{}: its record in run.json is made again from its expert.json", wanted.name));
  }
  forget_training_state(work);
  say(fmt::format("{}: done already, in {}", wanted.name, result.string()));
  return false;
}

void copy_one_file(const std::filesystem::path& from, const std::filesystem::path& to) {
  std::error_code error;
  std::filesystem::copy_file(from, to, std::filesystem::copy_options::overwrite_existing, error);
  if (error) fail("{}: cannot be copied to {}: {}", from.string(), to.string(), error.message());
}

/// A trained model with everything that belongs beside it, whole or not at all. The card gets the weights' hashes.
void write_model(const std::filesystem::path& directory, const ModelSpec& spec, std::span<const float> parameters,
                 const RunDirectory& run, const TrainingJob& job, ExpertCard& card) {
  AtomicDirectory output(directory);
  write_model_checkpoint(output.path(), spec, parameters);
  Tokenizer::load(run.tokenizer()).save(output.path());
  card.weights_hash = weights_hash(spec, parameters);
  write_expert_card(output.path(), card);
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

/// The run's router beside the experts, so that these can be carried off. The same one already there is left alone: its
/// temperature may have been tuned. A damaged one is put there anew. Experts may finish at the same time.
void put_router(const RunDirectory& run) {
  const FileLock lock(run.experts() / ".router.lock");
  recover_directory(run.experts_router());
  if (std::filesystem::exists(run.experts_router() / "router.json")) {
    constexpr const char* kTensors = "router.safetensors";
    try {
      read_json_file(run.experts_router() / "router.json");
      if (hash_file_hex(run.experts_router() / kTensors) == hash_file_hex(run.router() / kTensors)) return;
    } catch (const Error& error) {
      warn(fmt::format("{}; it is put there again from {}", error.what(), run.router().string()));
    }
  }
  AtomicDirectory output(run.experts_router());
  for (const char* name : {"router.json", "router.safetensors"})
    copy_one_file(run.router() / name, output.path() / name);
  output.commit();
}

/// What is trained on and what the running loss comes from.
void verify_shards(const RunDirectory& run, const Json& clusters, int64_t first, int64_t count) {
  for (int64_t cluster = first; cluster < first + count; ++cluster)
    for (const char* split : {"train", "tune"}) verify_shard(run, clusters, cluster, split);
}

/// The shards' ids are of one tokenizer, which goes into every model's directory.
void check_run_tokenizer(const RunDirectory& run, const Json& clusters, const Tokenizer& tokenizer) {
  if (clusters["tokenizer_hash"] == tokenizer.content_hash()) return;
  fail(
      "{}: is not the tokenizer that the shards were made with; it was changed or damaged: restore it, or cluster "
      "again "
      "with --redo",
      run.tokenizer().string());
}

std::filesystem::path work_directory(const RunDirectory& run, int64_t cluster) {
  return run.root() / "training" /
         (cluster == kBaseline ? "baseline" : "expert-" + RunDirectory::cluster_name(cluster));
}

}  // namespace

FileLock lock_shards_for_reading(const RunDirectory& run) {
  FileLock lock(run.clusters_lock(), FileLock::Wait::no, FileLock::Mode::shared);
  if (!lock.held())
    fail("{}: another process is making its shards; wait for its end, then give the same command", run.root().string());
  return lock;
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
  check_run_tokenizer(run, clusters, tokenizer);
  StageRecord record{.name = "seed",
                     .settings = training_settings_json(settings),
                     .inputs = {{"tokenizer", tokenizer.content_hash()}},
                     .command = command};
  ModelSpec spec;
  ParameterSource start;
  if (source.init.empty()) {
    spec = *source.spec;
    start = initial_weights(spec, settings.seed);
    record.settings["config"] = model_config_json(spec, "float32");
  } else {
    const ModelCheckpoint checkpoint = ModelCheckpoint::open(source.init);
    spec = checkpoint.spec();
    const std::string hash = hash_of(parameters_of(checkpoint));
    record.inputs["init"] = hash;
    start = weights_of(source.init, hash);
  }
  if (spec.embedding.vocab_size < tokenizer.vocab_size())
    fail(
        "the model's vocabulary of {} is smaller than the tokenizer's {}; give the tokenizer that belongs to it "
        "(--tokenizer)",
        spec.embedding.vocab_size, tokenizer.vocab_size());
  if (settings.steps > 0)
    record.inputs["shards"] = clusters["router_hash"].get<std::string>() + "/" + std::to_string(train_tokens(clusters));
  const std::filesystem::path work = run.root() / "training" / "seed";
  if (!due(run, record, run.seed(), work, redo)) return;

  TrainingJob job{.name = "seed",
                  .spec = spec,
                  .train_prefixes = shard_prefixes(run, 0, count, "train"),
                  .held_out_prefixes = shard_prefixes(run, 0, count, "tune"),
                  .work_directory = work,
                  .identity = record.inputs};
  if (redo) forget_other_training_state(devices, job, settings);
  if (settings.steps > 0) verify_shards(run, clusters, 0, count);
  TrainingResult result;
  if (settings.steps > 0) {
    result = train_model(devices, job, settings, start);
  } else {
    std::vector<float> parameters(static_cast<size_t>(ParameterLayout(spec).flat_size()));
    start(parameters);
    result.parameters = TrainedWeights(std::move(parameters));
  }
  ExpertCard card{.kind = "seed",
                  .settings = record.settings,
                  .inputs = record.inputs,
                  .training = summary_of(result),
                  .command = command,
                  .tokenizer_hash = tokenizer.content_hash()};
  write_model(run.seed(), spec, result.parameters, run, job, card);
  record.seconds = result.seconds;
  record.summary = card.training;
  record.result = card.weights_hash;
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
  check_run_tokenizer(run, clusters, Tokenizer::load(run.tokenizer()));
  const std::filesystem::path result_path = baseline ? run.baseline() : run.expert(cluster);
  const std::string name = baseline ? "baseline" : "expert/" + RunDirectory::cluster_name(cluster);

  StageRecord record{.name = name,
                     .settings = training_settings_json(settings),
                     .inputs = {{"tokenizer", clusters["tokenizer_hash"]}},
                     .command = command};
  ModelSpec spec;
  {  // neither the file nor its copy is kept while the training runs
    const ModelCheckpoint seed = ModelCheckpoint::open(run.seed());
    spec = seed.spec();
    record.inputs["seed"] = hash_of(parameters_of(seed));
  }
  if (baseline) {
    record.inputs["shards"] = clusters["router_hash"].get<std::string>() + "/" + std::to_string(train_tokens(clusters));
  } else {
    record.inputs["shard"] = shard_training_hash(run, clusters, cluster);
    record.inputs["router"] = clusters["router_hash"];
  }
  const std::filesystem::path work = work_directory(run, cluster);
  if (!due(run, record, result_path, work, redo)) {
    if (!baseline) put_router(run);
    return;
  }

  TrainingJob job{
      .name = baseline ? "dense baseline" : "expert " + RunDirectory::cluster_name(cluster),
      .spec = spec,
      .train_prefixes = baseline ? shard_prefixes(run, 0, count, "train") : shard_prefixes(run, cluster, 1, "train"),
      .held_out_prefixes = baseline ? shard_prefixes(run, 0, count, "tune") : shard_prefixes(run, cluster, 1, "tune"),
      .work_directory = work,
      .identity = record.inputs};
  if (redo) forget_other_training_state(devices, job, settings);
  verify_shards(run, clusters, baseline ? 0 : cluster, baseline ? count : 1);
  ExpertCard card{.kind = baseline ? "baseline" : "expert",
                  .settings = record.settings,
                  .inputs = record.inputs,
                  .command = command,
                  .tokenizer_hash = clusters["tokenizer_hash"],
                  .seed_hash = record.inputs["seed"]};
  if (!baseline) {
    card.router_hash = clusters["router_hash"];
    card.cluster = cluster;
    card.clusters = count;
    card.top_terms = clusters["top_terms"][static_cast<size_t>(cluster)].get<std::vector<std::string>>();
  }
  job.snapshot = [&](int64_t number, std::span<const float> weights) {
    const RunDirectory place(run.snapshot(number));
    ExpertCard own = card;
    own.snapshot_step = number * settings.steps / (settings.snapshots + 1);
    own.snapshot_tokens = own.snapshot_step * settings.batch_sequences * settings.sequence_length;
    write_model(baseline ? place.baseline() : place.expert(cluster), spec, weights, run, job, own);
  };
  const TrainingResult result = train_model(devices, job, settings, weights_of(run.seed(), record.inputs["seed"]));
  card.training = summary_of(result);
  if (read_clusters(run)["router_hash"] != clusters["router_hash"])
    fail(
        "{}: the run was clustered again while {} was trained; the trained state stays in {}, and nothing was put in "
        "place of what is there: train it again on the new shards with --redo",
        run.root().string(), job.name, job.work_directory.string());
  write_model(result_path, spec, result.parameters, run, job, card);
  if (!baseline) put_router(run);
  record.seconds = result.seconds;
  record.summary = card.training;
  record.result = card.weights_hash;
  record_stage(run, record);
  forget_training_state(job.work_directory);
}

}  // namespace cbtm
