#include "cbtm/accounting/run_cost.h"

#include <algorithm>
#include <cmath>

#include "cbtm/accounting/model_cost.h"
#include "cbtm/accounting/schedule.h"
#include "cbtm/base/error.h"
#include "cbtm/device/moe_operands.h"
#include "cbtm/model/upcycle.h"
#include "cbtm/run/training_summary.h"

namespace cbtm {
namespace {

constexpr int64_t kSequenceMax = int64_t{1} << 40;  ///< tokens, or sequences of a batch; more is damage
constexpr const char* kMixtureStage = "moe";

/// The model of a stage's training: the run's, or the mixture of experts that was made from it.
ModelSpec trained_model(const StageSummary& stage, const ModelSpec& model, const JsonReader& settings) {
  if (stage.name != kMixtureStage) return model;
  const JsonReader mixture = settings.object("mixture");
  const Upcycling upcycling{.experts = mixture.integer("experts", kExpertsPerToken, kMaxExperts),
                            .layers = mixture.integers("layers", 0, model.layers() - 1)};
  if (upcycling.layers.empty()) mixture.refuse("'layers' names no layer");
  return upcycled_spec(model, upcycling);
}

bool is_training(const std::string& name) {
  return name == "seed" || name == "baseline" || name == kMixtureStage || name.starts_with("expert/");
}

/// Where a stage stands in a run.
size_t rank(const std::string& name) {
  const char* const order[] = {"tokenizer", "cluster", "seed", "baseline", kMixtureStage, "expert/", "evaluate"};
  const auto* const found =
      std::find_if(std::begin(order), std::end(order), [&](const char* stage) { return name.starts_with(stage); });
  return static_cast<size_t>(found - std::begin(order));
}

StageCost stage_cost(const StageSummary& stage, const std::optional<ModelSpec>& model) {
  const std::string where = "the record of '" + stage.name + "' in run.json";
  StageCost cost{.name = stage.name, .seconds = stage.seconds, .computed_on = parse_device_use(stage.numbers, where)};
  if (cost.computed_on.devices == 1 && std::isnan(cost.computed_on.device_seconds))
    cost.computed_on.device_seconds = cost.seconds;
  if (!is_training(stage.name)) return cost;
  const TrainingSummary training = parse_training_summary(stage.numbers, where);
  cost.steps = training.steps;
  cost.tokens = training.tokens;
  const JsonReader settings(stage.settings, where);
  cost.sequence_length = settings.integer_or("sequence_length", -1, 1, kSequenceMax);
  cost.batch_sequences = settings.integer_or("batch_sequences", -1, 1, kSequenceMax);
  if (model && cost.tokens >= 0 && cost.sequence_length > 0)
    cost.flops =
        static_cast<double>(cost.tokens) * training_flops(trained_model(stage, *model, settings), cost.sequence_length);
  return cost;
}

double seconds_of(const RunCost& cost, std::initializer_list<const char*> names) {
  double sum = 0;
  for (const char* name : names)
    if (const StageCost* stage = cost.find(name)) sum += stage->seconds;
  return sum;
}

Json number_or_null(double value) { return std::isfinite(value) ? Json(value) : Json(); }

Json stage_cost_json(const StageCost& stage) {
  Json json = {{"name", stage.name}, {"seconds", stage.seconds}};
  if (stage.computed_on.devices > 0) add_device_use(json, stage.computed_on);
  if (!stage.is_training()) return json;
  json["steps"] = stage.steps;
  json["tokens"] = stage.tokens;
  json["flops"] = number_or_null(stage.flops);
  if (stage.seconds > 0) json["updates_per_second"] = stage.updates_per_second();
  return json;
}

}  // namespace

const StageCost* RunCost::find(const std::string& name) const {
  const auto found = std::find_if(stages.begin(), stages.end(), [&](const StageCost& s) { return s.name == name; });
  return found == stages.end() ? nullptr : &*found;
}

std::vector<double> RunCost::expert_seconds() const {
  std::vector<double> seconds;
  for (const StageCost& stage : stages)
    if (stage.is_expert()) seconds.push_back(stage.seconds);
  return seconds;
}

double RunCost::ensemble_seconds(int64_t devices) const {
  return seconds_of(*this, {"tokenizer", "cluster", "seed", "evaluate"}) + makespan(expert_seconds(), devices);
}

double RunCost::dense_seconds() const { return seconds_of(*this, {"tokenizer", "seed", "baseline"}); }

RunCost run_cost(const RunSummary& run, const std::optional<ModelSpec>& model) {
  RunCost cost;
  for (const StageSummary& stage : run.stages) cost.stages.push_back(stage_cost(stage, model));
  std::stable_sort(cost.stages.begin(), cost.stages.end(),
                   [](const StageCost& a, const StageCost& b) { return rank(a.name) < rank(b.name); });
  for (const StageCost& stage : cost.stages)
    if (std::isfinite(stage.computed_on.device_seconds))
      cost.device_seconds += stage.computed_on.device_seconds;
    else
      ++cost.stages_without_devices;
  return cost;
}

std::vector<UpdateRate> update_rates(const RunCost& cost, const std::vector<int64_t>& devices) {
  std::vector<UpdateRate> rates;
  const StageCost* dense = cost.find("baseline");
  if (dense != nullptr && dense->is_training() && dense->seconds > 0 && dense->computed_on.devices > 0) {
    const int64_t sequences = dense->batch_sequences > 0 ? dense->batch_sequences : INT64_MAX;  // not known: no limit
    const double one = dense->updates_per_second() / static_cast<double>(dense->computed_on.devices);
    for (const int64_t count : devices)
      rates.push_back({.system = "dense baseline",
                       .devices = count,
                       .updates_per_second = one * static_cast<double>(std::min(count, sequences)),
                       .measured = count == dense->computed_on.devices});
  }
  const std::vector<double> experts = cost.expert_seconds();
  double steps = 0;
  for (const StageCost& stage : cost.stages)
    if (stage.is_expert() && stage.is_training()) steps += static_cast<double>(stage.steps);
  if (steps == 0 || makespan(experts, 1) <= 0) return rates;
  for (const int64_t count : devices)
    rates.push_back({.system = "experts",
                     .devices = count,
                     .updates_per_second = steps / makespan(experts, count),
                     .measured = count == 1});
  return rates;
}

std::vector<int64_t> doubling_devices(int64_t most) {
  CBTM_ASSERT(most >= 1, "there is a device");
  std::vector<int64_t> counts;
  for (int64_t count = 1; count < most; count *= 2) counts.push_back(count);
  counts.push_back(most);
  return counts;
}

Json run_cost_json(const RunCost& cost, const std::vector<int64_t>& devices) {
  Json json = {{"stages", Json::array()},
               {"device_seconds", cost.device_seconds},
               {"stages_without_devices", cost.stages_without_devices},
               {"dense_seconds", cost.dense_seconds()},
               {"critical_path", Json::array()},
               {"update_rates", Json::array()}};
  for (const StageCost& stage : cost.stages) json["stages"].push_back(stage_cost_json(stage));
  for (const int64_t count : devices)
    json["critical_path"].push_back({{"devices", count}, {"ensemble_seconds", cost.ensemble_seconds(count)}});
  for (const UpdateRate& rate : update_rates(cost, devices))
    json["update_rates"].push_back({{"system", rate.system},
                                    {"devices", rate.devices},
                                    {"updates_per_second", rate.updates_per_second},
                                    {"measured", rate.measured}});
  return json;
}

}  // namespace cbtm
