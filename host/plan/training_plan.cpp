#include "cbtm/plan/training_plan.h"

#include <algorithm>
#include <cmath>

#include "cbtm/accounting/model_cost.h"
#include "cbtm/base/error.h"
#include "plan/planner.h"

namespace cbtm {
namespace {

double sum(const std::vector<PlannedStage>& stages, double PlannedStage::*seconds) {
  double total = 0;
  for (const PlannedStage& stage : stages)
    if (std::isfinite(stage.*seconds)) total += stage.*seconds;
  return total;
}

Json number_or_null(double value) { return std::isfinite(value) ? Json(value) : Json(); }

Json stage_json(const PlannedStage& stage) {
  return {{"name", stage.name},
          {"seconds_one_device", number_or_null(stage.seconds_one)},
          {"one_device", basis_name(stage.basis_one)},
          {"seconds_side_by_side", number_or_null(stage.seconds_side_by_side)},
          {"side_by_side", basis_name(stage.basis_side_by_side)},
          {"device_seconds", number_or_null(stage.device_seconds)}};
}

Json memory_json(const TrainingMemory& memory) {
  return {{"weights", memory.weights},     {"gradients", memory.gradients},
          {"moments", memory.moments},     {"activations", memory.activations},
          {"workspace", memory.workspace}, {"program", memory.host},
          {"total", memory.total()}};
}

Json system_json(const PlannedSystem& system, const PlanRequest& request) {
  const InferenceCost& inference = system.inference;
  Json json = {{"name", system.name},
               {"kind", system.kind},
               {"models", system.experts},
               {"parameters", inference.parameters},
               {"active_parameters", inference.active_parameters},
               {"steps", system.settings.steps},
               {"sequence", system.settings.sequence_length},
               {"batch_sequences", system.settings.batch_sequences},
               {"tokens", system.tokens},
               {"epochs", system.epochs},
               {"training_flops", system.training_flops},
               {"disk_bytes", system.disk_bytes},
               {"inference",
                {{"flops_per_token", inference.flops},
                 {"router_flops_per_token", inference.router_flops},
                 {"latency_flops_per_token", inference.latency_flops},
                 {"weight_bytes", inference.weight_bytes},
                 {"weight_bytes_per_token", inference.active_weight_bytes},
                 {"key_value_bytes_per_token", inference.key_value_bytes},
                 {"memory_bytes", system.inference_bytes}}}};
  if (!system.problem.empty()) {
    json["problem"] = system.problem;
    return json;
  }
  json["micro_batch_sequences"] = system.shape.micro_batch_sequences;
  json["training_memory"] = memory_json(system.shape.memory);
  json["stages"] = Json::array();
  for (const PlannedStage& stage : system.stages) json["stages"].push_back(stage_json(stage));
  json["seconds_one_device"] = system.seconds_one();
  json["critical_path_seconds"] = system.seconds_side_by_side();
  json["device_seconds"] = system.device_seconds();
  if (request.price_per_hour > 0) {
    json["cost_one_device"] = system.seconds_one() / 3600 * request.price_per_hour;
    json["cost_side_by_side"] = system.device_seconds() / 3600 * request.price_per_hour;
  }
  return json;
}

}  // namespace

const char* basis_name(TimeBasis basis) {
  switch (basis) {
    case TimeBasis::measured: return "measured";
    case TimeBasis::sampled: return "from a sample";
    case TimeBasis::computed: return "computed";
    case TimeBasis::from_rate: return "from the given rate";
    case TimeBasis::not_known: break;
  }
  return "not known";
}

double PlannedSystem::seconds_one() const { return sum(stages, &PlannedStage::seconds_one); }
double PlannedSystem::seconds_side_by_side() const { return sum(stages, &PlannedStage::seconds_side_by_side); }
double PlannedSystem::device_seconds() const { return sum(stages, &PlannedStage::device_seconds); }

Plan make_plan(std::span<Device* const> devices, const PlanRequest& request, const CorpusSurvey& survey,
               const CorpusStageTimes& corpus_times, TrainingTimer& timer, const std::optional<StudyFit>& fit) {
  CBTM_ASSERT(!request.ks.empty() && request.devices >= 1, "the command line asks for some");
  if (survey.documents < request.ks.back())
    fail("--k {} needs at least as many documents, but the corpus holds {}{}", request.ks.back(),
         survey.whole ? "" : "about ", survey.documents);
  Planner planner(devices, request, survey, corpus_times, timer);
  Plan plan{.free_bytes = devices.front()->free_bytes(),
            .trains_together = devices.front()->host_readable(&plan) == nullptr};
  if (request.dense.memory_bytes > 0) plan.free_bytes = std::min(plan.free_bytes, request.dense.memory_bytes);
  plan.systems.push_back(planner.dense());
  for (const int64_t k : request.ks) plan.systems.push_back(planner.experts(k));
  if (request.mixture) plan.systems.push_back(planner.other(*request.mixture, "mixture"));
  if (request.larger) plan.systems.push_back(planner.other(*request.larger, "larger"));
  plan.update_rates = planner.update_rates();
  plan.suggested = suggest_k(request.ks, static_cast<int64_t>(plan.systems.front().tokens),
                             total_parameters(request.model.spec), fit);
  return plan;
}

Json plan_json(const Plan& plan, const PlanRequest& request) {
  Json json = {{"devices", request.devices},
               {"device_memory_bytes", plan.free_bytes},
               {"trains_together", plan.trains_together},
               {"systems", Json::array()},
               {"update_rates", Json::array()},
               {"suggested", {{"k", plan.suggested.k}, {"reason", plan.suggested.reason}}}};
  for (const PlannedSystem& system : plan.systems) json["systems"].push_back(system_json(system, request));
  for (const PlannedRate& rate : plan.update_rates)
    json["update_rates"].push_back({{"system", rate.system},
                                    {"devices", rate.devices},
                                    {"updates_per_second", rate.updates_per_second},
                                    {"basis", basis_name(rate.basis)}});
  return json;
}

}  // namespace cbtm
