// Trainings of a mixture of experts: what threads, interruptions, recomputing and several devices change, which is
// nothing but the rounding of sums.

#include <doctest/doctest.h>

#include "cbtm/base/error.h"
#include "cbtm/model/layer_routing.h"
#include "cbtm/model/upcycle.h"
#include "tests/largest_difference.h"
#include "tests/train/group_device.h"
#include "tests/train/tiny_training.h"

namespace cbtm {
namespace {

constexpr OptShape kDense{.vocab_size = 61,
                          .hidden_size = 20,
                          .num_hidden_layers = 3,
                          .num_attention_heads = 2,
                          .ffn_dim = 28,
                          .max_position_embeddings = 48,
                          .word_embed_proj_dim = 20};
const Upcycling kUpcycling{.experts = 3, .layers = {0, 2}, .router_init = RouterInit::normal, .seed = 5};

struct MoeTraining : TinyTraining {
  MoeTraining() : TinyTraining({30, 5, 70, 11, 2, 44, 90, 8}, upcycled_spec(kDense, kUpcycling)) {
    const std::vector<float> dense = initial_parameters(kDense, 3);
    std::ranges::fill(parameters, 0.0f);
    upcycle_parameters(kDense, kUpcycling, dense, parameters);
    settings = {.steps = 6,
                .sequence_length = 21,
                .batch_sequences = 7,
                .learning_rate = 3e-3,
                .dropout = 0.1,
                .weight_decay = 0.1,
                .clip_norm = 1,
                .micro_batch_sequences = 2,
                .save_every = 1,
                .keep = 100,
                .validate_every = 2};
  }
};

struct Threads {
  explicit Threads(int count) : before(thread_count()) { set_thread_count(count); }
  ~Threads() { set_thread_count(before); }
  int before;
};

TEST_CASE("an interrupted training goes on bit for bit, on any number of threads, and so do its metrics") {
  Device& device = test_device();
  const MoeTraining reference;
  const TrainingResult expected = reference.train(device);
  MoeTraining resumed;
  resumed.settings.snapshots = 2;
  int64_t interruptions = 0;
  resumed.job.snapshot = [&](int64_t number, std::span<const float>) {
    if (number > interruptions) {
      ++interruptions;
      fail("interrupted");
    }
  };
  TrainingResult result;
  for (const int count : {1, 3, 2}) {
    const Threads threads(count);
    try {
      result = resumed.train(device);
    } catch (const Error& error) {
      CHECK(std::string(error.what()).find("interrupted") != std::string::npos);
    }
  }
  CHECK(interruptions == 2);
  CHECK(result.parameters == expected.parameters);
  const std::vector<Json> lines = resumed.step_metrics(), want = reference.step_metrics();
  REQUIRE(lines.size() == want.size());
  for (size_t i = 0; i < lines.size(); ++i) {
    CHECK(lines[i]["routing"] == want[i]["routing"]);
    CHECK(lines[i]["balance_loss"] == want[i]["balance_loss"]);
  }
}

TEST_CASE("metrics count every token of a step once in each mixture") {
  const MoeTraining training;
  training.train(test_device());
  const std::vector<Json> lines = training.step_metrics();
  REQUIRE(lines.size() == 6);
  for (const Json& line : lines) {
    REQUIRE(line["routing"].size() == 2);
    double balance = 0;
    for (const Json& layer : line["routing"]) {
      int64_t first = 0, second = 0, kept = 0;
      for (size_t e = 0; e < 3; ++e) {
        first += layer["first_choices"][e].get<int64_t>();
        second += layer["second_choices"][e].get<int64_t>();
        kept += layer["kept"][e].get<int64_t>();
      }
      CHECK(first == 7 * 21);
      CHECK(second == 7 * 21);
      CHECK(kept + layer["dropped_first"].get<int64_t>() + layer["dropped_second"].get<int64_t>() == 2 * 7 * 21);
      CHECK(layer["entropy"].get<double>() > 0);
      CHECK(layer["entropy"].get<double>() <= std::log(3.0) + 1e-6);
      CHECK(layer["balance_loss"].get<double>() > 0);
      CHECK(layer["balance_loss"].get<double>() <= 3 + 1e-6);
      balance += layer["balance_loss"].get<double>();
    }
    CHECK(line["balance_loss"].get<double>() == doctest::Approx(balance));
  }
}

TEST_CASE("on several devices a training is the same but for the rounding of sums") {
  MoeTraining one;
  const TrainingResult want = one.train(test_device());
  for (const size_t size : {size_t{2}, size_t{3}, size_t{4}}) {
    CAPTURE(size);
    Group group(size);
    const MoeTraining several;
    const TrainingResult got = several.train(group.all);
    const std::vector<Json> lines = several.step_metrics(), expected = one.step_metrics();
    REQUIRE(lines.size() == expected.size());
    for (size_t i = 0; i < lines.size(); ++i) {
      CHECK(std::abs(lines[i]["loss"].get<double>() / expected[i]["loss"].get<double>() - 1) <= 1e-6);
      for (size_t layer = 0; layer < 2; ++layer)
        for (const char* key : {"first_choices", "second_choices", "kept", "dropped_first", "dropped_both"})
          CHECK(lines[i]["routing"][layer][key] == expected[i]["routing"][layer][key]);
    }
    CHECK(largest_difference(got.parameters, want.parameters) <= 1e-5);
  }
}

TEST_CASE("what is recomputed changes no bit, dropout and dropped tokens included") {
  const MoeTraining reference;
  Device& device = test_device();
  for (const Keep keep : {Keep::all_but_feed_forward, Keep::block_inputs}) {
    CAPTURE(static_cast<int>(keep));
    TrainingModel kept(device, reference.spec, reference.parameters, 5 * 21, Keep::everything);
    TrainingModel again(device, reference.spec, reference.parameters, 5 * 21, keep);
    PhiloxStream random(4, 4);
    for (int64_t step = 1; step <= 2; ++step) {
      std::vector<int32_t> ids, targets;
      for (int64_t i = 0; i < 5 * 21; ++i) {
        ids.push_back(static_cast<int32_t>(random.next_below(61)));
        targets.push_back(static_cast<int32_t>(random.next_below(61)));
      }
      const std::vector<int32_t> offsets = {0, 21, 42, 60, 84, 105};
      const BackwardOptions options{.gradient_scale = 0.01f,
                                    .dropout = 0.1f,
                                    .seed = 3,
                                    .step = static_cast<uint32_t>(step),
                                    .dropout_columns = 48};
      CHECK(kept.accumulate_gradients({ids, offsets}, targets, options) ==
            again.accumulate_gradients({ids, offsets}, targets, options));
      const float* a = kept.gradients().as<float>();
      const float* b = again.gradients().as<float>();
      CHECK(std::equal(a, a + kept.layout().flat_size(), b));
      const StepResult one = kept.finish_step({.step = step, .learning_rate = 0.01f});
      const StepResult other = again.finish_step({.step = step, .learning_rate = 0.01f});
      CHECK(one.routing_statistics == other.routing_statistics);
      CHECK(layer_routing(reference.spec, one.routing_statistics)[0].dropped_fraction() > 0);
    }
  }
}

}  // namespace
}  // namespace cbtm
