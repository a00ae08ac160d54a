#include "cbtm/accounting/run_cost.h"

#include <doctest/doctest.h>

#include <cmath>

#include "cbtm/accounting/model_cost.h"
#include "cbtm/base/error.h"
#include "cbtm/model/families.h"
#include "cbtm/model/upcycle.h"

namespace cbtm {
namespace {

StageSummary stage(const std::string& name, double seconds, int64_t devices) {
  StageSummary summary{.name = name, .settings = Json::object(), .inputs = Json::object(), .seconds = seconds};
  if (devices > 0)
    add_device_use(summary.numbers,
                   {.devices = devices, .device = "d", .device_seconds = seconds * static_cast<double>(devices)});
  return summary;
}

StageSummary training(const std::string& name, double seconds, int64_t devices, int64_t batch_sequences) {
  StageSummary summary = stage(name, seconds, devices);
  constexpr int64_t kSteps = 100, kLength = 64;
  summary.settings = {{"sequence_length", kLength}, {"batch_sequences", batch_sequences}};
  summary.numbers["steps"] = kSteps;
  summary.numbers["tokens"] = kSteps * kLength * batch_sequences;
  return summary;
}

RunSummary example() {
  return {.version = "0.1.0",
          .stages = {training("baseline", 40, 4, 8), stage("cluster", 7, 1), stage("evaluate", 5, 1),
                     training("expert/000", 10, 1, 2), training("expert/001", 20, 1, 2),
                     training("expert/002", 30, 1, 2), training("seed", 16, 4, 8), stage("tokenizer", 3, 0)}};
}

TEST_CASE("what a run took, and its critical path") {
  const ModelSpec model = model_preset("nano");
  const RunCost cost = run_cost(example(), model);
  REQUIRE(cost.stages.size() == 8);
  CHECK(cost.stages[0].name == "tokenizer");
  CHECK(cost.stages[3].name == "baseline");
  CHECK(cost.stages[7].name == "evaluate");
  CHECK(cost.device_seconds == 7 + 5 + 4 * 40 + 4 * 16 + 10 + 20 + 30);
  CHECK(cost.stages_without_devices == 1);  // an older record
  CHECK(cost.ensemble_seconds(1) == 3 + 7 + 16 + 60 + 5);
  CHECK(cost.ensemble_seconds(2) == 3 + 7 + 16 + 40 + 5);  // 10 then 30 on the one, 20 on the other
  CHECK(cost.ensemble_seconds(3) == 3 + 7 + 16 + 30 + 5);
  CHECK(cost.ensemble_seconds(99) == cost.ensemble_seconds(3));
  CHECK(cost.dense_seconds() == 3 + 16 + 40);
  CHECK(cost.find("baseline")->flops == 100 * 64 * 8 * training_flops(model, 64));
  CHECK(std::isnan(run_cost(example(), std::nullopt).find("baseline")->flops));
  CHECK(cost.find("expert/003") == nullptr);
}

TEST_CASE("a mixture of experts is counted by its own description") {
  const ModelSpec model = model_preset("nano");
  RunSummary run = example();
  run.stages.push_back(training("moe", 50, 1, 8));
  run.stages.back().settings["mixture"] = {{"experts", 4}, {"layers", {1}}};
  const RunCost cost = run_cost(run, model);
  CHECK(cost.stages[4].name == "moe");
  const ModelSpec mixture = upcycled_spec(model, {.experts = 4, .layers = {1}});
  CHECK(cost.find("moe")->flops == 100 * 64 * 8 * training_flops(mixture, 64));
  CHECK(cost.find("moe")->flops > cost.find("baseline")->flops);
  CHECK(cost.ensemble_seconds(1) == run_cost(example(), model).ensemble_seconds(1));
  run.stages.back().settings["mixture"]["layers"] = {7};
  CHECK_THROWS_WITH_AS(run_cost(run, model), doctest::Contains("'moe'"), Error);
}

TEST_CASE("update rates say what was measured") {
  const RunCost cost = run_cost(example(), std::nullopt);
  CHECK(doubling_devices(1) == std::vector<int64_t>{1});
  CHECK(doubling_devices(6) == std::vector<int64_t>{1, 2, 4, 6});
  const std::vector<UpdateRate> rates = update_rates(cost, {1, 4, 16});
  REQUIRE(rates.size() == 6);
  CHECK(rates[0].updates_per_second == 100.0 / 40 / 4);
  CHECK_FALSE(rates[0].measured);
  CHECK(rates[1].updates_per_second == 100.0 / 40);  // on four, as it was trained
  CHECK(rates[1].measured);
  CHECK(rates[2].updates_per_second == 100.0 / 40 * 2);  // no more than the batch has sequences
  CHECK(rates[3].system == "experts");
  CHECK(rates[3].updates_per_second == 300.0 / 60);
  CHECK(rates[3].measured);
  CHECK(rates[4].updates_per_second == 300.0 / 30);
  CHECK_FALSE(rates[4].measured);
}

TEST_CASE("a run without trainings has no rates, and a damaged record is named") {
  const RunCost cost = run_cost({.version = "", .stages = {stage("cluster", 7, 1)}}, std::nullopt);
  CHECK(update_rates(cost, {1, 2}).empty());
  CHECK(cost.ensemble_seconds(2) == 7);
  const Json json = run_cost_json(cost, {1, 2});
  CHECK(json["critical_path"][1]["ensemble_seconds"] == 7.0);
  RunSummary damaged = example();
  damaged.stages[0].numbers["steps"] = "many";
  CHECK_THROWS_WITH_AS(run_cost(damaged, std::nullopt),
                       doctest::Contains("the record of 'baseline' in run.json: 'steps' is \"many\""), Error);
}

}  // namespace
}  // namespace cbtm
