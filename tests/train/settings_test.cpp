// What an optimizer step and an expert get: the learning rate of each step, the share of the dense model's compute.

#include <doctest/doctest.h>

#include "cbtm/base/error.h"
#include "cbtm/train/expert_settings.h"

namespace cbtm {
namespace {

TEST_CASE("the learning rate falls linearly to the last step, after a linear rise if one is asked for") {
  TrainingSettings settings{.steps = 4, .learning_rate = 2.0};
  for (const auto& [step, rate] : {std::pair{1, 1.5}, {2, 1.0}, {3, 0.5}, {4, 0.0}})
    CHECK(learning_rate_at(settings, step) == doctest::Approx(rate));
  settings = {.steps = 10, .learning_rate = 1.0, .warmup_steps = 4, .final_learning_rate = 0.1};
  for (const auto& [step, rate] : {std::pair{1, 0.25}, {3, 0.75}, {4, 1.0}, {5, 0.85}, {7, 0.55}, {10, 0.1}})
    CHECK(learning_rate_at(settings, step) == doctest::Approx(rate));
  settings.final_learning_rate = 1;
  for (int step = 4; step <= 10; ++step) CHECK(learning_rate_at(settings, step) == doctest::Approx(1.0));
  settings.warmup_steps = 10;  // nothing left to fall in
  CHECK(learning_rate_at(settings, 10) == doctest::Approx(1.0));
}

TEST_CASE("k experts together have the dense model's tokens") {
  const TrainingSettings dense{.steps = 1000, .sequence_length = 256, .batch_sequences = 32, .warmup_steps = 80};
  const auto tokens = [](const TrainingSettings& s) { return s.steps * s.batch_sequences * s.sequence_length; };
  for (const int64_t k : {1, 2, 8, 32}) {
    CAPTURE(k);
    const TrainingSettings by_steps = expert_settings(dense, k, /*keep_batch=*/false);
    CHECK(by_steps.steps == dense.steps);
    CHECK(by_steps.warmup_steps == dense.warmup_steps);
    CHECK(k * tokens(by_steps) == tokens(dense));
    const TrainingSettings by_batch = expert_settings(dense, k, /*keep_batch=*/true);
    CHECK(by_batch.batch_sequences == dense.batch_sequences);
    CHECK(by_batch.warmup_steps == dense.warmup_steps / k);
    CHECK(k * tokens(by_batch) >= tokens(dense));
    CHECK(k * tokens(by_batch) < tokens(dense) + k * dense.batch_sequences * dense.sequence_length);
  }
  // All else is the dense model's.
  TrainingSettings expert = expert_settings(dense, 8, false);
  expert.batch_sequences = dense.batch_sequences;
  CHECK(training_settings_json(expert) == training_settings_json(dense));
}

TEST_CASE("a batch that cannot be divided is refused with the batches that can") {
  const TrainingSettings dense{.steps = 10, .sequence_length = 128, .batch_sequences = 10};
  try {
    expert_settings(dense, 4, false);
    FAIL("10 sequences among 4 experts");
  } catch (const Error& error) {
    CHECK(error.exit_code() == kExitUsage);
    CHECK(std::string(error.what()).find("--batch-tokens a multiple of 512") != std::string::npos);
    CHECK(std::string(error.what()).find("--match batch") != std::string::npos);
  }
  CHECK(expert_settings(dense, 4, true).steps == 3);
}

}  // namespace
}  // namespace cbtm
