#include "cbtm/plan/training_plan.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>

#include "cbtm/accounting/model_cost.h"
#include "cbtm/base/error.h"
#include "cbtm/model/families.h"

namespace cbtm {
namespace {

/// 1000 documents of 100 tokens, none of them longer.
CorpusSurvey example_survey() {
  CorpusSurvey survey;
  survey.whole = true;
  survey.documents = 1000;
  survey.text_bytes = 400'000;
  survey.tokens = 100'000;
  survey.sample_lengths.assign(50, 100);
  return survey;
}

PlanRequest example_request() {
  PlanRequest request;
  request.model = {"preset nano", model_preset("nano")};
  request.model.spec.embedding.vocab_size = 512;
  request.dense.steps = 20;
  request.dense.sequence_length = 64;
  request.dense.batch_sequences = 16;
  request.dense.snapshots = 0;
  request.dense.dropout = 0;
  request.seed = request.dense;
  request.seed.steps = 10;
  request.seed.batch_sequences = 8;
  request.ks = {2, 4};
  request.cached_tokens = 100;
  return request;
}

const PlannedSystem& system(const Plan& plan, const std::string& name) {
  const auto found =
      std::find_if(plan.systems.begin(), plan.systems.end(), [&](const PlannedSystem& s) { return s.name == name; });
  REQUIRE(found != plan.systems.end());
  return *found;
}

const PlannedStage& stage(const PlannedSystem& system, const std::string& name) {
  const auto found =
      std::find_if(system.stages.begin(), system.stages.end(), [&](const PlannedStage& s) { return s.name == name; });
  REQUIRE(found != system.stages.end());
  return *found;
}

class Planned {
 public:
  explicit Planned(const PlanRequest& request, double rate = 1000, const CorpusStageTimes& times = {})
      : device(make_cpu_device()), devices{device.get()}, request_(request) {
    const auto timer = given_timer(request.model.spec, rate);
    plan = make_plan(devices, request, example_survey(), times, *timer, std::nullopt);
  }

  std::unique_ptr<Device> device;
  std::array<Device*, 1> devices;
  Plan plan;

 private:
  PlanRequest request_;
};

TEST_CASE("times by a given rate are tokens over the rate") {
  PlanRequest request = example_request();
  request.devices = 3;
  const Planned planned(request);
  const PlannedSystem& dense = system(planned.plan, "dense");
  CHECK(dense.tokens == 20 * 16 * 64);
  CHECK(stage(dense, "dense").seconds_one == doctest::Approx(20.0 * 16 * 64 / 1000));
  CHECK(stage(dense, "dense").seconds_side_by_side == stage(dense, "dense").seconds_one);  // one CPU trains one model
  CHECK(stage(dense, "dense").basis_one == TimeBasis::from_rate);
  CHECK(stage(dense, "seed").seconds_one == doctest::Approx(10.0 * 8 * 64 / 1000));
  // Seed and dense model read the held-out tokens, cut at 64 of 100.
  const double held_out = HeldOutSplit::for_corpus(1000, 0.01).valid_fraction;
  CHECK(stage(dense, "evaluate").seconds_one == doctest::Approx(2 * held_out * 100'000 * 64 / 100 / 3000));

  const PlannedSystem& four = system(planned.plan, "4 experts");
  CHECK(four.settings.batch_sequences == 4);
  CHECK(four.settings.steps == 20);
  CHECK(four.tokens == dense.tokens);
  CHECK(four.training_flops == dense.training_flops);
  CHECK(stage(four, "experts").seconds_one == doctest::Approx(stage(dense, "dense").seconds_one));
  // Three devices: two rounds of a quarter each.
  CHECK(stage(four, "experts").seconds_side_by_side == doctest::Approx(stage(four, "experts").seconds_one / 2));
  CHECK(stage(four, "experts").device_seconds == doctest::Approx(stage(four, "experts").seconds_one));
  CHECK(stage(four, "cluster").basis_one == TimeBasis::not_known);
  CHECK(four.seconds_one() == doctest::Approx(stage(four, "experts").seconds_one + stage(four, "seed").seconds_one +
                                              stage(four, "evaluate").seconds_one));
  CHECK(four.inference.parameters == 4 * dense.inference.parameters);
  CHECK(four.inference_bytes == 4 * dense.inference_bytes);
  // Seed, and four experts; the states of three trainings at once, two of each; ids of two bytes.
  const ModelSpec& spec = request.model.spec;
  CHECK(four.disk_bytes == 5 * checkpoint_bytes(spec) + 3 * 2 * training_state_bytes(spec) + 2 * 100'000);
  CHECK(planned.plan.suggested.k == 2);
}

TEST_CASE("the stages before the trainings are scaled from a sample") {
  PlanRequest request = example_request();
  const Planned planned(request, 1000, {.documents = 100, .tokenizer_seconds = 2, .cluster_seconds = {{2, 3.0}}});
  CHECK(stage(system(planned.plan, "dense"), "tokenizer").seconds_one == 20);
  const PlannedSystem& two = system(planned.plan, "2 experts");
  CHECK(stage(two, "cluster").seconds_one == 30);
  CHECK(stage(two, "cluster").basis_one == TimeBasis::sampled);
  CHECK(stage(system(planned.plan, "4 experts"), "cluster").basis_one == TimeBasis::not_known);
}

TEST_CASE("update rates by a given rate") {
  PlanRequest request = example_request();
  request.devices = 4;
  const Planned planned(request);
  const auto rate = [&](const std::string& name, int64_t devices) {
    for (const PlannedRate& rate : planned.plan.update_rates)
      if (rate.system == name && rate.devices == devices) return rate.updates_per_second;
    return 0.0;
  };
  CHECK(rate("dense", 1) == doctest::Approx(1000.0 / (16 * 64)));
  CHECK(rate("dense", 4) == 0);  // a CPU trains alone
  CHECK(rate("4 experts", 1) == doctest::Approx(4 / (4 * 4 * 64 / 1000.0)));
  CHECK(rate("4 experts", 2) == doctest::Approx(2 * rate("4 experts", 1)));
  CHECK(rate("4 experts", 4) == doctest::Approx(4 * rate("4 experts", 1)));
  CHECK(rate("2 experts", 4) == doctest::Approx(2 * rate("2 experts", 1)));
}

TEST_CASE("a larger dense model is slower by its FLOPs, and one that does not fit is said not to") {
  PlanRequest request = example_request();
  ModelSpec larger = model_preset("micro");
  larger.embedding.vocab_size = 512;
  request.larger = NamedModel{"dense micro", larger};
  const Planned planned(request);
  const PlannedSystem& micro = system(planned.plan, "dense micro");
  const double ratio = training_flops(larger, 64) / training_flops(request.model.spec, 64);
  CHECK(stage(micro, "larger").seconds_one ==
        doctest::Approx(ratio * stage(system(planned.plan, "dense"), "dense").seconds_one));
  request.larger = NamedModel{"dense 175b", model_preset("175b")};
  const Planned too_large(request);
  const PlannedSystem& huge = system(too_large.plan, "dense 175b");
  CHECK(huge.problem.find("training needs") != std::string::npos);
  CHECK(huge.problem.find("--preset") != std::string::npos);
  CHECK(huge.stages.empty());
}

TEST_CASE("what cannot be planned is refused, with what could") {
  PlanRequest request = example_request();
  SUBCASE("more experts than documents") {
    request.dense.batch_sequences = 2000;
    request.ks = {2000};
    CHECK_THROWS_WITH_AS(Planned{request},
                         doctest::Contains("--k 2000 needs at least as many documents, but the "
                                           "corpus holds 1000"),
                         Error);
  }
  SUBCASE("too little memory for any model") {
    request.dense.memory_bytes = request.seed.memory_bytes = 1 << 20;
    CHECK_THROWS_WITH_AS(Planned{request}, doctest::Contains("no preset would fit"), Error);
  }
  SUBCASE("memory for smaller micro-batches only") {
    request.dense.batch_sequences = request.dense.micro_batch_sequences = 1 << 20;
    request.dense.memory_bytes = int64_t{1} << 30;
    CHECK_THROWS_WITH_AS(Planned{request}, doctest::Contains("would fit, with"), Error);
  }
  SUBCASE("a batch that cannot be divided") {
    request.ks = {3};
    CHECK_THROWS_WITH_AS(Planned{request}, doctest::Contains("cannot be divided among 3 experts"), Error);
  }
}

TEST_CASE("a probe measures a step, and times the same shape once") {
  const auto device = make_cpu_device();
  std::array<Device*, 1> devices = {device.get()};
  const PlanRequest request = example_request();
  const ChosenShape shape =
      choose_training_shape(devices, request.model.spec, request.dense, training_host_memory(devices, 0));
  CHECK(shape.micro_batch_sequences == 16);
  const auto timer = probing_timer(devices, 20);
  const TrainingTime first = timer->time(request.model.spec, request.dense, shape);
  CHECK(first.measured);
  CHECK(first.probe_sequences == 16);
  CHECK(first.step.micro_batch_seconds > 0);
  CHECK(first.step.update_seconds > 0);
  CHECK(first.scoring_seconds_per_token > 0);
  const TrainingTime again = timer->time(request.model.spec, request.dense, shape);
  CHECK(again.step.micro_batch_seconds == first.step.micro_batch_seconds);
  CHECK_FALSE(timer->group_step(request.model.spec, request.dense));
}

}  // namespace
}  // namespace cbtm
