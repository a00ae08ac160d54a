#include <fmt/format.h>

#include <cmath>
#include <fstream>
#include <optional>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/signals.h"
#include "cbtm/device/open_device.h"
#include "cbtm/ensemble/next_token_scorer.h"
#include "cbtm/fewshot/few_shot.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/model/expert_card.h"
#include "commands/commands.h"
#include "commands/expert_flags.h"
#include "commands/model_tokenizer.h"
#include "commands/type_flags.h"

namespace cbtm {
namespace {

/// The task with what the command line changes.
FewShotTask task_of(const CommandLine& line) {
  FewShotTask task =
      read_few_shot_task(line.path("task"), line.given("test-lines") ? line.integer("test-lines", 1) : 0);
  if (line.given("shots")) task.shots = line.integer("shots", 0, static_cast<int64_t>(task.train.size()));
  if (line.given("seeds"))
    task.seeds.resize(static_cast<size_t>(line.integer("seeds", 1, static_cast<int64_t>(task.seeds.size()))));
  return task;
}

constexpr const char* kDetailsBegin = "{\"few_shot_line\":";

/// Throws Error if --details names a file that is something else than older details.
void check_details(const CommandLine& line) {
  const std::filesystem::path path = line.path("details");
  line.check_no_input(path, "details");
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return check_writable(path, OutputKind::json);
  std::string begin(std::string_view(kDetailsBegin).size(), '\0');
  std::ifstream(path, std::ios::binary).read(begin.data(), static_cast<std::streamsize>(begin.size()));
  if (begin != kDetailsBegin)
    fail("{}: is there and holds no details of cbtm fewshot; it is left as it is, name another file", path.string());
}

Json scores_json(const LabelScores& scores) {
  return {{"lm", scores.lm}, {"length", scores.length}, {"pmi", scores.pmi}};
}

Json result_json(const FewShotTask& task, const FewShotResult& result, const std::vector<Mixture>& mixtures) {
  Json json = {{"task", task.name},
               {"labels", task.labels},
               {"label_ids", result.tokens.labels},
               {"suffix_ids", result.tokens.suffix},
               {"shots", task.shots},
               {"seeds", task.seeds},
               {"demonstrations", result.demonstrations},
               {"truncated_prompts", result.truncated_prompts},
               {"seconds", result.seconds},
               {"log_probabilities_by_suffix", result.suffix}};
  for (const FewShotExample& example : task.test) json["gold"].push_back(example.label);
  for (size_t s = 0; s < result.systems.size(); ++s) {
    const FewShotSystem& system = result.systems[s];
    Json one = {{"name", system.name}};
    if (s < mixtures.size()) {
      one["top_k"] = mixtures[s].top_k;
      one["router_temperature"] = mixtures[s].temperature;
      one["distance_power"] = mixtures[s].distance_power;
    }
    for (size_t kind = 0; kind < kScoreKinds.size(); ++kind) {
      const Accuracy& accuracy = system.accuracies[kind];
      Json predictions = Json::array();
      for (const std::vector<LabelScores>& of_seed : system.scores) {
        predictions.push_back(Json::array());
        for (const LabelScores& scores : of_seed)
          predictions.back().push_back(predicted_label(scores_of(scores, kind)));
      }
      one[kScoreKinds[kind]] = {{"accuracy", accuracy.by_seed},
                                {"mean", accuracy.mean()},
                                {"standard_error", accuracy.standard_error()},
                                {"predictions", predictions}};
    }
    json["systems"].push_back(std::move(one));
  }
  return json;
}

void print(const FewShotTask& task, const FewShotResult& result) {
  fmt::print("{}: {} test lines, {} shots, {} seed{}\n", task.name, task.test.size(), task.shots, task.seeds.size(),
             task.seeds.size() == 1 ? "" : "s");
  fmt::print("{:<8}", "");
  for (const char* kind : kScoreKinds) fmt::print(" {:>16}", kind);
  fmt::print("\n");
  for (const FewShotSystem& system : result.systems) {
    fmt::print("{:<8}", system.name);
    for (const Accuracy& accuracy : system.accuracies)
      fmt::print(" {:>16}", std::isnan(accuracy.standard_error())
                                ? fmt::format("{:.4f}", accuracy.mean())
                                : fmt::format("{:.4f} +- {:.4f}", accuracy.mean(), accuracy.standard_error()));
    fmt::print("\n");
  }
}

}  // namespace

int run_fewshot(int argc, char** argv) {
  CommandLine line("fewshot", "few-shot classification: accuracy of a model, or of the experts together",
                   {"cbtm fewshot --task tasks/agnews/task.json --experts run/experts --topk 1,2,4,all",
                    "cbtm fewshot --task tasks/sst2/task.json --model run/baseline --json baseline.json"});
  if (!line.parse(argc, argv)) return kExitSuccess;
  if (line.given("model") == line.given("experts")) fail_usage("give one of --model DIR and --experts DIR");
  const bool ensemble = line.given("experts");
  for (const char* flag : {"topk", "router-temperature", "distance-power", "mix", "router-directory"})
    if (!ensemble && line.given(flag)) fail_usage("--{} does nothing with --model: one model is not mixed", flag);
  const std::string mix = line.text("mix");
  if (mix != "label" && mix != "token") fail_usage("--mix {}: use label or token", mix);
  if (line.given("details")) check_details(line);
  const FewShotTask task = task_of(line);
  install_stop_signals();
  FewShotOptions options{.token_by_token = mix == "token"};
  std::optional<AtomicFile> file;
  if (line.given("details")) {
    file.emplace(line.path("details"));
    options.details = [&](const FewShotDetails& one) {
      Json json = {{"few_shot_line", one.line}, {"seed", one.seed}, {"prompt", one.prompt}, {"ids", one.ids}};
      json["log_probabilities"] = one.by_expert;
      if (!one.squared_distances.empty()) json["squared_distances"] = one.squared_distances;
      if (!one.weights.empty()) json["weights"] = one.weights;
      for (const LabelScores* scores : one.scores) json["scores"].push_back(scores_json(*scores));
      file->write(json.dump() + "\n");
    };
  }
  FewShotResult result;
  if (ensemble) {
    const std::unique_ptr<Device> device = open_device(line.common().device, line.common().profile);
    const ExpertSet experts = open_experts(line, device.get());
    Mixture mixture = experts.router().defaults();
    mixture.distance_power = power_flag(line, experts);
    if (line.given("router-temperature")) mixture.temperature = line.number("router-temperature", 1e-9, 1e9);
    for (const int64_t top_k : parse_top_k(line.text("topk"), experts.router().clusters())) {
      mixture.top_k = top_k;
      options.mixtures.push_back(mixture);
    }
    const auto pool = generation_pool(*device, experts, memory_flag(line));
    if (!line.get<bool>("no-shared-prompts")) share_prompts(pool->memory());
    result = few_shot(*pool, task, options);
  } else {
    const std::filesystem::path directory = line.path("model");
    ModelCheckpoint::open(directory);  // what is wrong with the files is said first
    const Tokenizer tokenizer = Tokenizer::load(line.given("tokenizer") ? line.path("tokenizer") : directory);
    check_tokenizer(directory, read_expert_card(directory), tokenizer);
    const std::unique_ptr<Device> device = open_device(line.common().device, line.common().profile);
    const int64_t bytes = memory_flag(line) > 0 ? memory_flag(line) : default_memory_bytes(*device);
    const auto memory = std::make_shared<ModelMemory>(*device, bytes, 1);
    if (!line.get<bool>("no-shared-prompts")) share_prompts(*memory);
    const auto model = InferenceModel::load(*device, directory, weights_flag(line), memory);
    result = few_shot(*model, tokenizer, task, options);
  }
  if (file) file->commit();
  print(task, result);
  Json json = result_json(task, result, options.mixtures);
  json["command"] = line.as_typed();
  line.write_json(json);
  return kExitSuccess;
}

}  // namespace cbtm
