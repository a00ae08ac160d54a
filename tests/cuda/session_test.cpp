// Requests that come, go and wait, on a GPU: each gets what it gets alone, bit for bit.

#include "cbtm/model/checkpoint.h"
#include "cbtm/model/training_model.h"
#include "tests/cuda/half_precision.h"
#include "tests/ensemble/golden_ensemble.h"
#include "tests/ensemble/session_check.h"
#include "tests/opt_shape.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

Device& cuda() {
  static const std::unique_ptr<Device> device = make_cuda_device(0);
  return *device;
}

TEST_CASE("one model: prompts of several pieces, in float32, 16 bits and int8") {
  const TemporaryDirectory directory;
  const ModelSpec spec = OptShape{
      .vocab_size = 61, .hidden_size = 32, .ffn_dim = 40, .max_position_embeddings = 700, .word_embed_proj_dim = 32};
  std::vector<float> parameters = initial_parameters(spec, 3);
  for (float& value : parameters) value *= 4;  // scores that differ
  write_model_checkpoint(directory.path() / "model", spec, parameters);
  for (const WeightFormat weights : {WeightFormat::f32, WeightFormat::bf16, WeightFormat::int8}) {
    CAPTURE(weight_format_name(weights));
    const MakeScorer make = [&] {
      return model_scorer(InferenceModel::load(cuda(), directory.path() / "model", weights));
    };
    const auto requests = random_requests(4, 61, 600, 7);
    const Outcome want = each_alone(make, requests);
    check_same(together(*make(), requests, {.requests_max = 3, .prompt_rows = 300}, 5), want);
  }
}

TEST_CASE("an ensemble: experts that come into use late") {
  const ExpertSet experts = golden_experts();
  const MakeScorer make = [&] { return ensemble_scorer(cuda(), experts, {2, 0.3, 2}, {}); };
  const auto requests = random_requests(5, experts.vocab_size(), 40, 11);
  const Outcome want = each_alone(make, requests);
  check_same(together(*make(), requests, {.prompt_rows = 40}, 3), want);
}

}  // namespace
}  // namespace cbtm
