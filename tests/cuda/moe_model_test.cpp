// Mixtures of experts on a GPU: whole trainings against the CPU's, and requests that get what they get alone.

#include <algorithm>
#include <cmath>

#include "cbtm/base/philox.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/model/layer_routing.h"
#include "cbtm/model/training_model.h"
#include "cbtm/model/upcycle.h"
#include "tests/cuda/half_precision.h"
#include "tests/cuda/training_losses.h"
#include "tests/ensemble/session_check.h"
#include "tests/opt_shape.h"
#include "tests/temporary_directory.h"
#include "tests/train/tiny_training.h"

namespace cbtm {
namespace {

Device& cuda() {
  static const std::unique_ptr<Device> device = make_cuda_device(0);
  return *device;
}

/// Parameters of a mixture whose experts have gone ways of their own.
std::vector<float> mixture_of(const ModelSpec& dense, const Upcycling& upcycling, const std::vector<float>& start) {
  const ParameterLayout layout(upcycled_spec(dense, upcycling));
  std::vector<float> flat(static_cast<size_t>(layout.flat_size()), 0.0f);
  upcycle_parameters(dense, upcycling, start, flat);
  PhiloxStream random(8, 0);
  for (const Parameter& parameter : layout.parameters())
    for (int64_t i = 0; i < parameter.size() && parameter.expert >= 0; ++i)
      flat[static_cast<size_t>(parameter.offset + i)] += 0.02f * static_cast<float>(random.next_normal());
  return flat;
}

/// As training_test.cpp: tensor cores take the heads, and no vector width divides the vocabulary.
constexpr OptShape kDense{.vocab_size = 307,
                          .hidden_size = 64,
                          .num_hidden_layers = 2,
                          .num_attention_heads = 2,
                          .ffn_dim = 160,
                          .max_position_embeddings = 48,
                          .word_embed_proj_dim = 64};
const Upcycling kUpcycling{.experts = 5, .layers = {1}, .router_init = RouterInit::uniform, .seed = 5};

struct Training : TinyTraining {
  Training(const std::string& precision, double dropout)
      : TinyTraining({30, 5, 70, 11, 2, 44, 90, 8}, upcycled_spec(kDense, kUpcycling)) {
    parameters = mixture_of(kDense, kUpcycling, initial_parameters(kDense, 3));
    settings = {.steps = 6,
                .sequence_length = 21,
                .batch_sequences = 4,
                .learning_rate = 3e-3,
                .dropout = dropout,
                .weight_decay = 0.1,
                .clip_norm = 0.1,
                .precision = precision,
                .micro_batch_sequences = 2,
                .save_every = 6,
                .validate_every = 3};
  }
  std::vector<Json> lines(Device& device) {
    result = train(device);
    return step_metrics();
  }
  TrainingResult result;
};

// The routers' logits differ by roundings, some 1e-6, and no two of a token's lie so near to each other here: the
// choices are the same, and what follows differs by roundings too (training_test.cpp says how much).
TEST_CASE("float32: losses, gradients and routing of a mixture equal the CPU's, step by step") {
  Training cpu("float32", 0.1), gpu("float32", 0.1), without("float32", 0);
  const std::vector<Json> want = cpu.lines(test_device()), got = gpu.lines(cuda());
  for (const char* key : {"loss", "gradient_norm", "validation_loss", "balance_loss"}) {
    CAPTURE(key);
    CHECK(largest_relative_difference(got, want, key) <= 1e-4);
  }
  for (size_t i = 0; i < want.size(); ++i) {
    if (!want[i].contains("routing")) continue;
    for (size_t layer = 0; layer < want[i]["routing"].size(); ++layer)
      for (const char* key : {"first_choices", "second_choices", "kept", "dropped_first", "dropped_second"})
        CHECK(got[i]["routing"][layer][key] == want[i]["routing"][layer][key]);
  }
  CHECK(largest_relative_difference(without.lines(test_device()), want, "loss") > 3e-4);
}

// In 16 bits a choice may fall otherwise where two gates are nearly equal, and then the two experts of a token count
// nearly alike whichever comes first; a third one in the place of the second has a gate below a third. So the bound is
// that of a model without mixtures.
TEST_CASE("16 bits: losses of a mixture are the CPU's in float32, as far as 16 bits allow; repeated bit for bit") {
  Training cpu("float32", 0.1), gpu(half_precision(), 0.1), again(half_precision(), 0.1);
  const std::vector<Json> want = cpu.lines(test_device()), got = gpu.lines(cuda());
  const double error = half_error(half_precision(), kDense.num_hidden_layers, 1);
  CHECK(largest_loss_difference(got, want) <= half_bound(error, cpu.settings.steps));
  Training without("float32", 0.5);  // what is no rounding is more
  CHECK(largest_loss_difference(without.lines(test_device()), want) > half_bound(error, cpu.settings.steps));
  again.lines(cuda());
  CHECK(again.result.parameters == gpu.result.parameters);
}

TEST_CASE("a mixture's requests that come, go and wait get what they get alone, in every type of weights") {
  const TemporaryDirectory directory;
  const ModelSpec dense = OptShape{
      .vocab_size = 61, .hidden_size = 32, .ffn_dim = 40, .max_position_embeddings = 400, .word_embed_proj_dim = 32};
  std::vector<float> parameters = initial_parameters(dense, 3);
  for (float& value : parameters) value *= 4;  // scores that differ
  const Upcycling upcycling{.experts = 3, .layers = {0, 1}, .seed = 2};
  write_model_checkpoint(directory.path() / "model", upcycled_spec(dense, upcycling),
                         mixture_of(dense, upcycling, parameters));
  for (const WeightFormat weights : {WeightFormat::f32, WeightFormat::bf16, WeightFormat::int8, WeightFormat::int4}) {
    CAPTURE(weight_format_name(weights));
    const MakeScorer make = [&] {
      return model_scorer(InferenceModel::load(cuda(), directory.path() / "model", weights));
    };
    const auto requests = random_requests(4, 61, 300, 7);
    const Outcome want = each_alone(make, requests);
    check_same(together(*make(), requests, {.requests_max = 3, .prompt_rows = 150}, 5), want);
  }
}

}  // namespace
}  // namespace cbtm
