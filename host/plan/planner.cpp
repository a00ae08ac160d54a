#include "plan/planner.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "cbtm/accounting/model_cost.h"
#include "cbtm/accounting/run_cost.h"
#include "cbtm/accounting/schedule.h"
#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/error.h"
#include "cbtm/cluster/cluster_corpus.h"
#include "cbtm/train/expert_settings.h"
#include "plan/fitting.h"

namespace cbtm {
namespace {

constexpr int64_t kRouterDimensions = 100;  ///< as of ClusterOptions
/// Bytes that an order of documents takes for each (TokenStream::order_bytes).
constexpr int64_t kOrderBytes = sizeof(int32_t) + sizeof(int64_t);
constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

int64_t micro_batches(const TrainingSettings& settings, const ChosenShape& shape) {
  return ceil_divide(settings.batch_sequences, shape.micro_batch_sequences);
}

double tokens_of(const TrainingSettings& settings) {
  return static_cast<double>(settings.steps) * static_cast<double>(settings.batch_sequences) *
         static_cast<double>(settings.sequence_length);
}

TimeBasis step_basis(const TrainingTime& time, const ChosenShape& shape) {
  if (!time.measured) return TimeBasis::from_rate;
  return time.probe_sequences == shape.micro_batch_sequences ? TimeBasis::measured : TimeBasis::computed;
}

}  // namespace

Planner::Planner(std::span<Device* const> devices, const PlanRequest& request, const CorpusSurvey& survey,
                 const CorpusStageTimes& corpus_times, TrainingTimer& timer)
    : devices_(devices),
      request_(request),
      survey_(survey),
      corpus_times_(corpus_times),
      timer_(timer),
      trains_together_(devices.front()->host_readable(this) == nullptr),
      host_(training_host_memory(devices, 0)) {}

std::vector<Device*> Planner::together(int64_t count) const {
  return std::vector<Device*>(static_cast<size_t>(trains_together_ ? count : 1), devices_.front());
}

double Planner::train_tokens() const {
  const HeldOutSplit split = HeldOutSplit::for_corpus(survey_.documents, request_.valid_fraction);
  return survey_.tokens * (1 - split.valid_fraction - split.tune_fraction);
}

int64_t Planner::order_bytes(int64_t models) const {
  return trains_together_ ? 0 : survey_.documents / models * kOrderBytes;
}

bool Planner::measured_group(int64_t count) const {
  return count > 1 && count == static_cast<int64_t>(devices_.size());
}

ChosenShape Planner::shape_of(int64_t count, const ModelSpec& model, const TrainingSettings& settings,
                              int64_t models) const {
  HostMemory host = host_;
  host.bytes += order_bytes(models);
  const std::vector<Device*> group = together(count);
  try {
    return choose_training_shape(group, model, settings, host);
  } catch (const Error& error) {
    if (error.exit_code() != kExitFailure) throw;
    fail("{} parameters in batches of {} x {} tokens: {}; {}", total_parameters(model), settings.batch_sequences,
         settings.sequence_length, error.what(), what_would_fit(group, model, settings, host));
  }
}

double Planner::step_on(int64_t count, const ModelSpec& model, const TrainingSettings& settings, TimeBasis& basis) {
  const std::vector<Device*> group = together(count);
  const auto used = static_cast<int64_t>(group.size());
  if (measured_group(used))
    if (const auto whole = timer_.group_step(model, settings)) {
      basis = TimeBasis::measured;
      return *whole;
    }
  const ChosenShape shape = shape_of(used, model, settings, 1);
  const TrainingTime time = timer_.time(model, settings, shape);
  basis = step_basis(time, shape);
  if (used > 1 && basis == TimeBasis::measured) basis = TimeBasis::computed;
  const DType dtype = resolve_precision(settings.precision, *devices_.front());
  return step_seconds(time.step, micro_batches(settings, shape), used, exchange_bytes(model, dtype, used),
                      request_.link_bytes_per_second);
}

PlannedStage Planner::joint_stage(const std::string& name, const ModelSpec& model, const TrainingSettings& settings) {
  PlannedStage stage{.name = name};
  const auto steps = static_cast<double>(settings.steps);
  stage.seconds_one = steps * step_on(1, model, settings, stage.basis_one);
  stage.seconds_side_by_side = steps * step_on(request_.devices, model, settings, stage.basis_side_by_side);
  stage.device_seconds =
      stage.seconds_side_by_side * static_cast<double>(trains_together_ ? request_.devices : int64_t{1});
  return stage;
}

PlannedStage Planner::experts_stage(const PlannedSystem& system) {
  const TrainingTime time = timer_.time(request_.model.spec, system.settings, system.shape);
  const double one = static_cast<double>(system.settings.steps) *
                     step_seconds(time.step, micro_batches(system.settings, system.shape), 1, 0, 0);
  const std::vector<double> each(static_cast<size_t>(system.experts), one);
  return {.name = "experts",
          .seconds_one = makespan(each, 1),
          .basis_one = step_basis(time, system.shape),
          .seconds_side_by_side = makespan(each, request_.devices),
          .basis_side_by_side = time.measured ? TimeBasis::computed : TimeBasis::from_rate,
          .device_seconds = makespan(each, 1)};
}

void Planner::add_corpus_stages(PlannedSystem& system, int64_t k) const {
  const auto add = [&](const char* name, double seconds) {
    const TimeBasis basis = std::isnan(seconds) ? TimeBasis::not_known : TimeBasis::sampled;
    system.stages.push_back({name, seconds, basis, seconds, basis, seconds});
  };
  const bool timed = corpus_times_.documents > 0;
  const double scale =
      timed ? static_cast<double>(survey_.documents) / static_cast<double>(corpus_times_.documents) : kUnknown;
  // Of a large corpus the tokenizer is learnt from a part.
  const double learnt_from =
      std::min(1.0, static_cast<double>(kTokenizerTextBytesMax) / static_cast<double>(survey_.text_bytes));
  if (!timed || corpus_times_.tokenizer_seconds > 0)
    add("tokenizer", corpus_times_.tokenizer_seconds * scale * learnt_from);
  if (k < 2) return;
  const auto found = corpus_times_.cluster_seconds.find(k);
  add("cluster", found == corpus_times_.cluster_seconds.end() ? kUnknown : found->second * scale);
}

PlannedStage Planner::evaluation(const PlannedSystem& system, const ModelSpec& model) {
  const HeldOutSplit split = HeldOutSplit::for_corpus(survey_.documents, request_.valid_fraction);
  const double tokens = survey_.tokens * survey_.share_within(system.settings.sequence_length);
  const auto experts = static_cast<double>(system.experts);
  // Seed and the system itself; of experts every one, also to choose the temperature, and all again for each snapshot,
  // each time with the dense model.
  double reads = split.valid_fraction * 2;
  if (system.kind == "experts")
    reads = split.valid_fraction * (2 + experts + static_cast<double>(request_.dense.snapshots) * (1 + experts)) +
            split.tune_fraction * experts;
  const TrainingTime time = timer_.time(model, system.settings, system.shape);
  const double seconds = reads * tokens * time.scoring_seconds_per_token;
  const TimeBasis basis = time.measured ? TimeBasis::computed : TimeBasis::from_rate;
  return {"evaluate", seconds, basis, seconds, basis, seconds};
}

void Planner::size(PlannedSystem& system, const ModelSpec& model) const {
  const auto experts = static_cast<double>(system.experts);
  system.tokens = experts * tokens_of(system.settings);
  system.epochs = system.tokens / train_tokens();
  system.training_flops = system.tokens * training_flops(model, system.settings.sequence_length);
  const DType cache =
      request_.weights != WeightFormat::f32 && devices_.front()->computes_in(DType::bf16) ? DType::bf16 : DType::f32;
  system.inference = inference_cost({.model = model,
                                     .experts = system.experts,
                                     .active_experts = std::min(request_.top_k, system.experts),
                                     .router_dimensions = system.experts > 1 ? kRouterDimensions : 0},
                                    static_cast<double>(system.settings.sequence_length) / 2, request_.weights, cache);
  system.inference_bytes =
      system.inference.weight_bytes + system.experts * request_.cached_tokens * key_value_bytes(model, cache);
  // Seed, models and what is kept along the way; the states of what is trained at once; the ids of all tokens.
  const bool ensemble = system.kind == "experts";
  const int64_t models = ensemble ? system.experts : 1;
  const int64_t at_once = ensemble ? std::min(system.experts, request_.devices) : 1;
  const int64_t id_bytes = model.embedding.vocab_size <= 65'536 ? 2 : 4;
  const ModelSpec& seed = system.kind == "mixture" ? request_.model.spec : model;  // which it is made from
  system.disk_bytes = checkpoint_bytes(seed) + models * (1 + system.settings.snapshots) * checkpoint_bytes(model) +
                      at_once * system.settings.keep * training_state_bytes(model) +
                      static_cast<int64_t>(survey_.tokens) * id_bytes;
}

PlannedSystem Planner::dense() {
  PlannedSystem system{.name = "dense", .kind = "dense", .settings = request_.dense};
  size(system, request_.model.spec);
  system.shape = shape_of(1, request_.model.spec, system.settings, 1);
  add_corpus_stages(system, 1);
  if (request_.seed.steps > 0) system.stages.push_back(joint_stage("seed", request_.model.spec, request_.seed));
  system.stages.push_back(joint_stage("dense", request_.model.spec, system.settings));
  system.stages.push_back(evaluation(system, request_.model.spec));
  return system;
}

PlannedSystem Planner::experts(int64_t k) {
  PlannedSystem system{.name = fmt::format("{} experts", k),
                       .kind = "experts",
                       .experts = k,
                       .settings = expert_settings(request_.dense, k, request_.match_batch)};
  size(system, request_.model.spec);
  system.shape = shape_of(1, request_.model.spec, system.settings, k);
  add_corpus_stages(system, k);
  if (request_.seed.steps > 0) system.stages.push_back(joint_stage("seed", request_.model.spec, request_.seed));
  system.stages.push_back(experts_stage(system));
  system.stages.push_back(evaluation(system, request_.model.spec));
  return system;
}

PlannedSystem Planner::other(const NamedModel& model, const std::string& kind) {
  PlannedSystem system{.name = model.name, .kind = kind, .settings = request_.dense};
  size(system, model.spec);
  try {
    system.shape = shape_of(1, model.spec, system.settings, 1);
    add_corpus_stages(system, 1);
    // A mixture of experts is made from the seed; a larger model has a seed of its own.
    if (request_.seed.steps > 0)
      system.stages.push_back(joint_stage("seed", kind == "mixture" ? request_.model.spec : model.spec, request_.seed));
    system.stages.push_back(joint_stage(kind, model.spec, system.settings));
    system.stages.push_back(evaluation(system, model.spec));
  } catch (const Error& error) {
    if (error.exit_code() != kExitFailure) throw;
    system.problem = error.what();
    system.stages.clear();
  }
  return system;
}

std::vector<PlannedRate> Planner::update_rates() {
  std::vector<PlannedRate> rates;
  for (const int64_t count : doubling_devices(request_.devices)) {
    PlannedRate dense{.system = "dense", .devices = count};
    if (count == 1 || (trains_together_ && count <= request_.dense.batch_sequences)) {
      dense.updates_per_second = 1 / step_on(count, request_.model.spec, request_.dense, dense.basis);
      rates.push_back(dense);
    }
    for (const int64_t k : request_.ks) {
      const TrainingSettings settings = expert_settings(request_.dense, k, request_.match_batch);
      PlannedRate experts{.system = fmt::format("{} experts", k), .devices = count};
      const double step = step_on(1, request_.model.spec, settings, experts.basis);
      const std::vector<double> steps(static_cast<size_t>(k), step);
      experts.updates_per_second = static_cast<double>(k) / makespan(steps, count);
      if (count > 1 && experts.basis == TimeBasis::measured) experts.basis = TimeBasis::computed;
      rates.push_back(experts);
    }
  }
  return rates;
}

}  // namespace cbtm
