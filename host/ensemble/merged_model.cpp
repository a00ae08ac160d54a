#include "cbtm/ensemble/merged_model.h"

#include <algorithm>

#include "cbtm/base/error.h"
#include "cbtm/base/scratch_directory.h"
#include "cbtm/base/signals.h"
#include "cbtm/ensemble/next_token_scorer.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/model/families.h"
#include "ensemble/routed_text.h"

namespace cbtm {

std::vector<double> prompt_weights(const ExpertSet& experts, const std::shared_ptr<const RoutingMethod>& method,
                                   std::span<const int32_t> prompt,
                                   const std::function<std::shared_ptr<ExpertPool>()>& pool) {
  CBTM_ASSERT(!prompt.empty(), "a prompt has a token");
  if (method->uses_probabilities()) {
    constexpr int64_t kRowsAtOnce = 2048;
    const auto scorer = ensemble_scorer(pool(), method, {.schedule = RoutingSchedule::prompt});
    const int64_t sequence = scorer->open({prompt.begin(), prompt.end()});
    while (scorer->read({&sequence, 1}, kRowsAtOnce).empty()) stop_if_requested("reading a prompt");
    return scorer->weights(sequence);
  }
  const Router& router = method->router() != nullptr ? *method->router() : experts.router();
  std::vector<double> distances(static_cast<size_t>(experts.router().clusters())), weights(distances.size());
  if (method->uses_distances()) {
    const std::unique_ptr<RoutingContext> context = router.context();
    for (const int32_t id : prompt) append_token(experts.tokenizer(), id, *context);
    context->squared_distances(distances);
  }
  method->begin()->weights(distances, weights);
  return weights;
}

std::unique_ptr<InferenceModel> load_merged(Device& device, const ExpertSet& experts,
                                            const std::vector<double>& weights, WeightFormat format) {
  const auto only = std::find(weights.begin(), weights.end(), 1.0);
  if (only != weights.end() && std::count(weights.begin(), weights.end(), 0.0) + 1 == std::ssize(weights))
    return InferenceModel::load(device, experts.expert_of(only - weights.begin()).directory, format);
  const std::vector<Expert>& all = experts.experts();
  const auto used = std::find_if(
      all.begin(), all.end(), [&](const Expert& expert) { return weights[static_cast<size_t>(expert.cluster)] > 0; });
  CBTM_ASSERT(used != all.end(), "some expert has a weight");
  const ScratchDirectory scratch("merged");
  write_model_checkpoint(scratch.path(), read_model_spec(model_config_file(used->directory)),
                         average_parameters(experts, weights));
  return InferenceModel::load(device, scratch.path(), format);
}

}  // namespace cbtm
