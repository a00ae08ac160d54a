// Whole trainings, through the trainer and the model, on the CUDA device and on the CPU device.

#include <algorithm>
#include <cmath>
#include <set>
#include <string>

#include "cuda_device.h"
#include "tests/cuda/half_precision.h"
#include "tests/cuda/training_losses.h"
#include "tests/opt_shape.h"
#include "tests/train/failing_device.h"
#include "tests/train/tiny_training.h"

namespace cbtm {
namespace {

Device& cuda_device() {
  static const std::unique_ptr<Device> device = make_cuda_device(0);
  return *device;
}

constexpr int64_t kLayers = 2;

/// Heads of 32, which tensor cores take; a vocabulary that no vector width divides.
OptShape pre_norm_shape() {
  return {.vocab_size = 307,
          .hidden_size = 64,
          .num_hidden_layers = kLayers,
          .num_attention_heads = 2,
          .ffn_dim = 160,
          .max_position_embeddings = 48,
          .word_embed_proj_dim = 64};
}
/// As OPT-350m: norms after the sums, embeddings narrower than the model.
OptShape post_norm_shape() {
  OptShape shape = pre_norm_shape();
  shape.word_embed_proj_dim = 32;
  shape.do_layer_norm_before = false;
  return shape;
}

/// Steps of two micro-batches with dropout, clipping (the first norms are above it), weight decay and a warm-up.
struct Training : TinyTraining {
  Training(const ModelSpec& shape, const std::string& precision, int64_t steps)
      : TinyTraining({30, 5, 70, 11, 2, 44, 90, 8}, shape) {
    settings = {.steps = steps,
                .sequence_length = 21,
                .batch_sequences = 4,
                .learning_rate = 3e-3,
                .warmup_steps = 5,
                .dropout = 0.1,
                .weight_decay = 0.1,
                .clip_norm = 0.1,
                .precision = precision,
                .micro_batch_sequences = 2,
                .save_every = steps,
                .validate_every = 10};
  }
  std::vector<Json> lines(Device& device) {
    result = train(device);
    return step_metrics();
  }
  TrainingResult result;
};

// A loss is a mean over 84 targets of numbers near 5, each some hundreds of float32 operations deep: rounding errors of
// either device, about sqrt(300) * 2^-24 = 1e-6, stay below 1e-5 of it, also after a step.
constexpr double kFloatBound = 1e-5;
// Over 50 steps a ReLU's input may lie so near to zero that the devices disagree: one of 84 terms of a unit's gradient,
// a hundredth of it, so of the learning rate (3e-3) in 128 weights, along which the loss has a slope of 1 /
// sqrt(98,000) each: 1e-6 a step. What is no rounding shows at 1e-3.
constexpr double kTrajectoryBound = 1e-4;

TEST_CASE("float32: losses equal the CPU's, step by step, pre-norm and post-norm") {
  for (const bool pre_norm : {true, false}) {
    CAPTURE(pre_norm);
    const ModelSpec shape = pre_norm ? pre_norm_shape() : post_norm_shape();
    const int64_t steps = pre_norm ? 50 : 10;
    Training cpu(shape, "float32", steps), cuda(shape, "float32", steps), without(shape, "float32", steps);
    const std::vector<Json> want = cpu.lines(test_device()), got = cuda.lines(cuda_device());
    REQUIRE(want.front()["gradient_norm"].get<double>() > cpu.settings.clip_norm);
    for (const char* key : {"loss", "gradient_norm"})
      for (const size_t step : {size_t{0}, size_t{1}})
        CHECK(largest_relative_difference({got[step]}, {want[step]}, key) <= kFloatBound);
    CHECK(largest_relative_difference(got, want, "loss") <= kTrajectoryBound);
    CHECK(largest_relative_difference(got, want, "validation_loss") <= kTrajectoryBound);
    without.settings.dropout = 0;
    CHECK(largest_relative_difference(without.lines(test_device()), want, "loss") > 3 * kTrajectoryBound);
  }
}

TEST_CASE("bf16 and fp16: losses are the CPU's in float32, as far as 16 bits allow") {
  for (const bool pre_norm : {true, false})
    for (const std::string precision : {"bf16", "fp16"}) {
      if (precision == "bf16" && half_precision() != "bf16") continue;
      CAPTURE(pre_norm);
      CAPTURE(precision);
      const ModelSpec shape = pre_norm ? pre_norm_shape() : post_norm_shape();
      const int64_t steps = pre_norm && precision == "bf16" ? 20 : 6;
      Training cpu(shape, "float32", steps), cuda(shape, precision, steps), without(shape, "float32", steps);
      const std::vector<Json> want = cpu.lines(test_device()), got = cuda.lines(cuda_device());
      const double error =
          half_error(precision, kLayers, pre_norm ? 1 : 0.05);  // projections of 0.02 keep logits small
      CHECK(cuda.result.skipped_steps == 0);
      CHECK(largest_loss_difference(got, want) <= half_bound(error, steps));
      without.settings.dropout = 0.5;  // what is no rounding is more
      CHECK(largest_loss_difference(without.lines(test_device()), want) > error);
    }
}

/// Its last norm is so steep that gradients times the first loss scales exceed what float16 holds.
struct Overflowing : Training {
  Overflowing() : Training(pre_norm_shape(), "fp16", 10) {
    const Parameter& gamma = *ParameterLayout(spec).find(ParameterRole::final_norm);
    std::fill_n(parameters.begin() + gamma.offset, gamma.size(), 100.0f);
    settings.save_every = 5;
  }
};

TEST_CASE("fp16: a step that overflows is skipped and lowers the loss scale; resumed training repeats the bits") {
  Overflowing cuda;
  const std::vector<Json> got = cuda.lines(cuda_device());
  std::set<int> skipped;
  for (const Json& line : got)
    if (line.contains("skipped")) {
      skipped.insert(line["step"].get<int>());
      CHECK(line["loss_scale"].get<double>() == std::ldexp(65536.0, -static_cast<int>(skipped.size())));
    }
  REQUIRE(skipped.contains(1));
  REQUIRE(skipped.size() < 5);
  CHECK(cuda.result.skipped_steps == static_cast<int64_t>(skipped.size()));

  FailingDevice skipping(skipped);  // outlives the weights that lie there
  Overflowing cpu;
  cpu.settings.precision = "float32";
  const std::vector<Json> want = cpu.lines(skipping);
  // The first step that is taken has the error of its own roundings; the norm's 100 times sqrt(64) 0.02 is a logit.
  // Later ones start from other weights: where a gradient is below its own rounding error, which is a share of them as
  // large as that error is of a gradient, AdamW's step of about the learning rate may have the other sign. That is a
  // root mean square of 2 sqrt(share) learning rates, in a direction of its own, so that the loss changes by the
  // gradient's norm times it.
  const double roundings = half_error("fp16", kLayers, 1);
  double weight_error = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    if (!want[i]["loss"].is_number()) continue;
    CAPTURE(i);
    const double error =
        half_error("fp16", kLayers, 100 * 0.02 * 8) + want[i]["gradient_norm"].get<double>() * weight_error;
    CHECK(std::abs(got[i]["loss"].get<double>() - want[i]["loss"].get<double>()) <=
          half_bound(error, static_cast<int64_t>(want.size())));
    weight_error += want[i]["learning_rate"].get<double>() * 2 * std::sqrt(roundings);
  }

  std::filesystem::remove(cuda.job.work_directory / "state-00000010.safetensors");
  const TrainingResult again = cuda.train(cuda_device());
  CHECK(again.parameters == cuda.result.parameters);
  const std::vector<Json> lines = cuda.step_metrics();
  REQUIRE(lines.size() == got.size());
  for (size_t i = 0; i < lines.size(); ++i) CHECK(lines[i]["loss"] == got[i]["loss"]);
}

}  // namespace
}  // namespace cbtm
