#include "commands/evaluation_stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/content_hash.h"
#include "cbtm/base/error.h"
#include "cbtm/base/hash.h"
#include "cbtm/base/progress.h"
#include "cbtm/ensemble/evaluate.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/model/expert_card.h"
#include "cbtm/train/run_training.h"
#include "commands/evaluation_flags.h"
#include "commands/stages.h"

namespace cbtm {
namespace {

/// 1, 2, 4, ... and all.
std::vector<int64_t> top_k_sweep(int64_t clusters) {
  std::vector<int64_t> values;
  for (int64_t top_k = 1; top_k < clusters; top_k *= 2) values.push_back(top_k);
  values.push_back(clusters);
  return values;
}

std::string hash_of(const std::filesystem::path& model) { return ModelCheckpoint::open(model).weights_hash(); }

Evaluation evaluate_one(Device& device, const std::filesystem::path& model,
                        const std::vector<EvaluationDocument>& documents, int64_t length) {
  return evaluate_model(*InferenceModel::load(device, model), documents, length);
}

/// The models kept after one step of the training, if they are all there and of this run's training; else says what is
/// wrong with them.
std::optional<ExpertSet> snapshot_experts(const RunDirectory& run, const RunDirectory& snapshot,
                                          const ExpertCard& baseline, std::string& problem) {
  try {
    const std::optional<ExpertCard> dense = read_expert_card(snapshot.baseline());
    if (!dense || dense->snapshot_step < 0) {
      problem = "its dense model is not there";
      return std::nullopt;
    }
    if (dense->settings != baseline.settings || dense->inputs != baseline.inputs) {
      problem = "it is of another training than the dense baseline";
      return std::nullopt;
    }
    ModelCheckpoint::open(snapshot.baseline());
    ExpertSet experts = ExpertSet::open({.experts = snapshot.experts(), .router = run.router()});
    if (static_cast<int64_t>(experts.experts().size()) != experts.router().clusters()) {
      problem = "not all experts are there";
      return std::nullopt;
    }
    return experts;
  } catch (const Error& error) {
    problem = error.what();
    return std::nullopt;
  }
}

std::vector<std::filesystem::path> snapshot_directories(const RunDirectory& run) {
  std::vector<std::filesystem::path> directories;
  std::error_code error;
  for (auto entry = std::filesystem::directory_iterator(run.snapshots(), error);
       !error && entry != std::filesystem::directory_iterator(); entry.increment(error))
    if (const std::string name = entry->path().filename().string();
        name.find_first_not_of("0123456789") == std::string::npos)
      directories.push_back(entry->path());
  std::sort(directories.begin(), directories.end());
  return directories;
}

/// Models that an evaluation has used are needed no more. What is not cbtm's stays.
void remove_snapshots(const RunDirectory& run) {
  std::error_code error;
  for (const std::filesystem::path& directory : snapshot_directories(run)) {
    const RunDirectory snapshot(directory);
    std::vector<std::filesystem::path> models = {snapshot.baseline()};
    for (auto entry = std::filesystem::directory_iterator(snapshot.experts(), error);
         !error && entry != std::filesystem::directory_iterator(); entry.increment(error))
      models.push_back(entry->path());
    for (const std::filesystem::path& model : models) remove_output_directory(model);
    remove_abandoned_outputs(directory);
    remove_abandoned_outputs(snapshot.experts());
    std::filesystem::remove(snapshot.experts(), error);
    std::filesystem::remove(directory, error);
  }
  std::filesystem::remove(run.snapshots(), error);
}

/// Perplexities of the models kept on the way, at the steps that their cards say, and of the finished ones.
Json gain_curve(Device& device, const RunDirectory& run, const std::vector<EvaluationDocument>& documents,
                int64_t length, int64_t memory_bytes, double temperature, const Json& last) {
  Json points = Json::array();
  const std::optional<ExpertCard> baseline = read_expert_card(run.baseline());
  const std::string card = (run.baseline() / "expert.json").string();
  if (!baseline || !baseline->training.is_object())
    fail("{}: says nothing of its training; train it again with --redo", card);
  const JsonReader training(baseline->training, card, "train it again with --redo");
  const int64_t tokens = training.integer("tokens", 0);
  const int64_t steps = training.integer("steps", 0);
  for (const std::filesystem::path& directory : snapshot_directories(run)) {
    const RunDirectory snapshot(directory);
    std::string problem;
    const std::optional<ExpertSet> experts = snapshot_experts(run, snapshot, *baseline, problem);
    if (!experts) {
      warn(fmt::format("{}: left out of the curve: {}", directory.string(), problem));
      continue;
    }
    EvaluationOptions options{.length_max = length, .memory_bytes = memory_bytes};
    const double power = experts->router().defaults().distance_power;
    for (const int64_t top_k :
         {int64_t{1}, std::min<int64_t>(2, experts->router().clusters()), experts->router().clusters()})
      options.mixtures.push_back({top_k, temperature, power});
    const Evaluation ensemble = evaluate_ensemble(device, *experts, documents, options);
    const std::optional<ExpertCard> dense = read_expert_card(snapshot.baseline());
    points.push_back({{"step", dense->snapshot_step},
                      {"tokens", dense->snapshot_tokens},
                      {"dense", evaluate_one(device, snapshot.baseline(), documents, length).scores[0].perplexity()},
                      {"top_1", ensemble.scores[0].perplexity()},
                      {"top_2", ensemble.scores[1].perplexity()},
                      {"all", ensemble.scores[2].perplexity()}});
  }
  std::sort(points.begin(), points.end(),
            [](const Json& a, const Json& b) { return a["step"].get<int64_t>() < b["step"].get<int64_t>(); });
  Json end = last;
  end["step"] = steps;
  end["tokens"] = tokens;
  points.push_back(end);
  return {{"points", points}};
}

/// What print_evaluation asks for.
void check_summary(const Json& summary, const std::string& file) {
  const JsonReader read(summary, file, "evaluate again with --redo");
  for (const char* key : {"seed", "dense", "router_temperature"}) read.number(key);
  for (const char* key : {"documents", "tokens", "clusters"}) read.integer(key, 0);
  const JsonReader sweep = read.list("top_k");
  for (size_t i = 0; i < sweep.size(); ++i) {
    if (sweep.item(i).as_list().size() != 2) sweep.refuse("must hold pairs of a number and a perplexity");
    sweep.item(i).item(0).as_integer(1);
    sweep.item(i).item(1).as_number();
  }
}

}  // namespace

Json run_evaluation_stage(Device& device, const RunDirectory& run, int64_t memory_bytes, bool redo,
                          const std::string& command) {
  const ExpertSet experts = ExpertSet::open({.experts = run.experts()});
  const std::vector<int64_t> sweep = top_k_sweep(experts.router().clusters());
  StageRecord record{.name = "evaluate",
                     .settings = {{"split", "valid"}, {"top_k", sweep}, {"router_temperature", "tune"}},
                     .inputs = {{"router", experts.router().content_hash()},
                                {"seed", hash_of(run.seed())},
                                {"baseline", hash_of(run.baseline())}},
                     .command = command};
  for (const Expert& expert : experts.experts())
    record.inputs["expert/" + RunDirectory::cluster_name(expert.cluster)] = hash_of(expert.directory);
  const std::vector<std::string> results = {"seed.json", "baseline.json", "ensemble.json", "curve.json"};
  const auto hash_results = [&](const Json& summary) -> Json {
    for (const std::string& name : results)
      if (!std::filesystem::exists(run.evaluation() / name)) return "missing";
    return hash_hex(content_hashes(run.evaluation(), results).dump() + summary.dump());
  };
  const Json before = find_stage(run, "evaluate");
  record.result = hash_results(before.is_object() && before.contains("summary") ? before["summary"] : Json());
  if (!stage_is_due(run, record, run.evaluation() / "ensemble.json", redo)) {
    const Json done = find_stage(run, "evaluate");
    const Json summary = done.contains("summary") ? done["summary"] : Json();
    check_summary(summary, run.run_json().string());
    remove_snapshots(run);  // a process that died while it removed them has left some
    return summary;
  }
  for (const std::string& name : results) check_writable(run.evaluation() / name, OutputKind::json);

  const auto start = std::chrono::steady_clock::now();
  const std::vector<EvaluationDocument> tuning = run_documents(run, "tune");
  const std::vector<EvaluationDocument> documents = run_documents(run, "valid");
  const int64_t length = experts.trained_length();
  const double power = experts.router().defaults().distance_power;
  EvaluationOptions options{.mixtures = {{std::min<int64_t>(2, sweep.back()), 0.1, power}},
                            .length_max = length,
                            .memory_bytes = memory_bytes};
  const double temperature = tune_temperature(device, experts, tuning, options, temperature_candidates());
  say(fmt::format("router temperature {} is best for top-2 on {} tune documents", temperature, tuning.size()));
  record_temperature(experts.router(), temperature, power, run.experts_router());
  record_temperature(experts.router(), temperature, power, run.router());

  const Json described = {{"run", run.root().string()}, {"split", "valid"}};
  const auto evaluate = [&](const std::string& name, const std::filesystem::path& model) {
    const Evaluation evaluation = evaluate_one(device, model, documents, length);
    write_json_file(run.evaluation() / (name + ".json"),
                    evaluation_json(evaluation, {{"model", model.string()}, {"max_tokens", length}}, described));
    return evaluation.scores[0].perplexity();
  };
  Json summary = {{"documents", documents.size()},
                  {"clusters", sweep.back()},
                  {"router_temperature", temperature},
                  {"seed", evaluate("seed", run.seed())},
                  {"dense", evaluate("baseline", run.baseline())}};

  options.mixtures.clear();
  for (const int64_t top_k : sweep) options.mixtures.push_back({top_k, temperature, power});
  options.matrix = true;
  const Evaluation ensemble = evaluate_ensemble(device, experts, documents, options);
  summary["tokens"] = ensemble.scores[0].tokens;
  for (const Score& score : ensemble.scores) summary["top_k"].push_back({score.mixture.top_k, score.perplexity()});
  const Json settings = {{"experts", run.experts().string()},
                         {"top_k", sweep},
                         {"router_temperature", temperature},
                         {"distance_power", power},
                         {"routing", "token"},
                         {"max_tokens", length},
                         {"router_hash", experts.router().content_hash()}};
  const Json end = {{"dense", summary["dense"]},
                    {"top_1", ensemble.scores[0].perplexity()},
                    {"top_2", ensemble.scores[std::min<size_t>(1, sweep.size() - 1)].perplexity()},
                    {"all", ensemble.scores.back().perplexity()}};
  write_json_file(run.evaluation() / "curve.json",
                  gain_curve(device, run, documents, length, memory_bytes, temperature, end));
  write_json_file(run.evaluation() / "ensemble.json", evaluation_json(ensemble, settings, described));
  record.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  record.summary = summary;
  record.result = hash_results(summary);
  record_stage(run, record);
  remove_snapshots(run);
  return summary;
}

void print_evaluation(const Json& evaluation) {
  const double dense = evaluation["dense"];
  fmt::print("perplexity on {} held-out documents, {} tokens (router temperature {})\n",
             format_count(evaluation["documents"].get<int64_t>()), format_count(evaluation["tokens"].get<int64_t>()),
             evaluation["router_temperature"].get<double>());
  const auto line = [&](const std::string& name, double perplexity) {
    fmt::print("  {:<18} {:>9.3f}   {:>+6.2f} %\n", name, perplexity, 100 * (perplexity / dense - 1));
  };
  line("seed", evaluation["seed"]);
  fmt::print("  {:<18} {:>9.3f}\n", "dense baseline", dense);
  for (const Json& entry : evaluation["top_k"])
    line(entry[0] == evaluation["clusters"] ? fmt::format("ensemble, all {}", entry[0].get<int64_t>())
                                            : fmt::format("ensemble, top-{}", entry[0].get<int64_t>()),
         entry[1]);
}

}  // namespace cbtm
