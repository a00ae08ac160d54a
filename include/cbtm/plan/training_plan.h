#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cbtm/accounting/best_k.h"
#include "cbtm/accounting/inference_cost.h"
#include "cbtm/base/json.h"
#include "cbtm/device/device.h"
#include "cbtm/model/spec.h"
#include "cbtm/plan/corpus_survey.h"
#include "cbtm/plan/measured_times.h"
#include "cbtm/train/trainer.h"

namespace cbtm {

struct NamedModel {
  std::string name;  ///< for people: "preset mini"
  ModelSpec spec;
};

/// What is to be planned (docs/accounting.md, 'A plan').
struct PlanRequest {
  NamedModel model;                   ///< what the experts branch from
  std::optional<NamedModel> larger;   ///< a larger dense model of the same tokens
  std::optional<NamedModel> mixture;  ///< a mixture of experts of the same tokens, upcycled from the model
  TrainingSettings dense;             ///< of the dense baseline; an expert's follow from it
  TrainingSettings seed;              ///< steps: 0 if the seed is not trained
  bool match_batch = false;           ///< as expert_settings() has it
  std::vector<int64_t> ks;            ///< numbers of experts, increasing
  int64_t top_k = 2;                  ///< experts that are mixed for a token in inference
  int64_t devices = 1;                ///< side by side, all like the one that is measured
  double link_bytes_per_second = 0;   ///< between devices that train one model together; 0: the exchange is not counted
  double price_per_hour = 0;          ///< of a device; 0: no cost is said
  WeightFormat weights = WeightFormat::f32;  ///< in inference
  int64_t cached_tokens = 0;                 ///< of the texts that are generated at once
  double valid_fraction = 0.01;              ///< as of ClusterOptions
};

/// Where a time comes from.
enum class TimeBasis : uint8_t {
  measured,   ///< a step of this very shape was timed, and multiplied by the number of steps
  sampled,    ///< the stage was done for a sample of the corpus, and its time scaled
  computed,   ///< by a formula from what was measured
  from_rate,  ///< from the tokens per second that were given
  not_known,  ///< the seconds are NaN, and no part of any sum
};

struct PlannedStage {
  std::string name;        ///< "tokenizer", "cluster", "seed", "dense", "experts", "evaluate"
  double seconds_one = 0;  ///< on one device
  TimeBasis basis_one = TimeBasis::computed;
  double seconds_side_by_side = 0;  ///< wall-clock on all devices of the request
  TimeBasis basis_side_by_side = TimeBasis::computed;
  double device_seconds = 0;  ///< of the devices that are busy then
};

/// One of the systems that are compared.
struct PlannedSystem {
  std::string name;           ///< "dense", "4 experts", "mixture of experts", "larger dense"
  std::string kind;           ///< "dense", "experts", "mixture", "larger"
  int64_t experts = 1;        ///< models
  TrainingSettings settings;  ///< of each of them, after the seed
  double tokens = 0;          ///< of all of them together, after the seed
  double epochs = 0;          ///< over the training documents
  double training_flops = 0;  ///< after the seed
  std::string problem;        ///< why it cannot be trained here, or ""; then there is nothing of what follows
  ChosenShape shape;          ///< of one of the models on one device
  InferenceCost inference;
  int64_t inference_bytes = 0;  ///< all experts and their caches on one device
  int64_t disk_bytes = 0;       ///< of a whole run
  std::vector<PlannedStage> stages;

  double seconds_one() const;           ///< all stages one after another on one device
  double seconds_side_by_side() const;  ///< the critical path on all devices
  double device_seconds() const;        ///< of busy devices, side by side
};

/// Optimizer steps per second on some number of devices.
struct PlannedRate {
  std::string system;
  int64_t devices = 1;
  double updates_per_second = 0;  ///< of one model (dense), or of all experts together
  TimeBasis basis = TimeBasis::computed;
};

struct Plan {
  int64_t free_bytes = 0;       ///< of a device, or as --memory allows
  bool trains_together = true;  ///< devices of this kind can train one model together
  std::vector<PlannedSystem> systems;
  std::vector<PlannedRate> update_rates;
  SuggestedK suggested;
};

/// Throws Error if the model itself cannot be trained here, saying what could, or if there are fewer documents than
/// experts; a usage Error if a batch cannot be divided among the experts or the devices.
Plan make_plan(std::span<Device* const> devices, const PlanRequest& request, const CorpusSurvey& survey,
               const CorpusStageTimes& corpus_times, TrainingTimer& timer, const std::optional<StudyFit>& fit);
Json plan_json(const Plan& plan, const PlanRequest& request);

/// "measured", "from a sample", "computed", "from the given rate", "not known".
const char* basis_name(TimeBasis basis);

}  // namespace cbtm
