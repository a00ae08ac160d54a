#include "cbtm/ensemble/merged_model.h"

#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <system_error>

#include "cbtm/base/error.h"
#include "cbtm/ensemble/next_token_scorer.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/model/families.h"
#include "ensemble/routed_text.h"

namespace cbtm {
namespace {

/// A directory of a name that nobody else has, removed with this object. What is mapped from its files stays.
class ScratchDirectory {
 public:
  ScratchDirectory() {
    std::error_code error;
    const std::filesystem::path parent = std::filesystem::temp_directory_path(error);
    if (error) fail("the directory for temporary files (TMPDIR) cannot be used: {}", error.message());
    std::string name = (parent / "cbtm-merged-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) fail("{}: cannot be made: {}", name, errno_text());
    path_ = name;
  }
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  ~ScratchDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace

std::vector<double> prompt_weights(const ExpertSet& experts, const std::shared_ptr<const RoutingMethod>& method,
                                   std::span<const int32_t> prompt,
                                   const std::function<std::shared_ptr<ExpertPool>()>& pool) {
  CBTM_ASSERT(!prompt.empty(), "a prompt has a token");
  if (method->uses_probabilities()) {
    constexpr int64_t kRowsAtOnce = 2048;
    const auto scorer = ensemble_scorer(pool(), method, {.schedule = RoutingSchedule::prompt});
    const int64_t sequence = scorer->open({prompt.begin(), prompt.end()});
    while (scorer->read({&sequence, 1}, kRowsAtOnce).empty()) {
    }
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
  const ScratchDirectory scratch;
  for (const Expert& expert : experts.experts())
    if (weights[static_cast<size_t>(expert.cluster)] > 0) {
      write_model_checkpoint(scratch.path(), read_model_spec(model_config_file(expert.directory)),
                             average_parameters(experts, weights));
      return InferenceModel::load(device, scratch.path(), format);
    }
  CBTM_ASSERT(false, "some expert has a weight");
  return nullptr;
}

}  // namespace cbtm
