#include "commands/expert_weights.h"

#include <cmath>
#include <optional>
#include <string_view>

#include "cbtm/base/error.h"
#include "cbtm/base/numbers.h"
#include "cbtm/base/split.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/route/expert_prior.h"
#include "cbtm/route/routing_method.h"

namespace cbtm {
namespace {

/// "0.2,0.5,0.3": one weight per cluster.
std::vector<double> listed_weights(const std::string& text, const std::vector<uint8_t>& present) {
  std::vector<double> weights;
  for (const std::string& part : split(text, ',')) {
    const std::optional<double> weight = parse_number(part);
    if (!weight || *weight < 0)
      fail_usage("--expert-weights {}: use uniform, one weight per cluster as 0.2,0.8, or posterior:FILE", text);
    weights.push_back(*weight);
  }
  if (weights.size() != present.size())
    fail_usage("--expert-weights {}: names {} weights, but the router has {} clusters", text, weights.size(),
               present.size());
  double sum = 0;
  for (size_t j = 0; j < weights.size(); ++j) {
    sum += weights[j];
    if (weights[j] > 0 && present[j] == 0)
      fail_usage("--expert-weights {}: the expert of cluster {} is not there, so its weight must be 0", text, j);
  }
  constexpr double kRounding = 1e-6;
  if (std::abs(sum - 1) > kRounding) fail_usage("--expert-weights {}: their sum is {}, but must be 1", text, sum);
  return weights;
}

/// "posterior:FILE" or "posterior:FILE:topk=N".
std::vector<double> prior_weights(const std::string& text, const ExpertSet& experts) {
  constexpr std::string_view kPosterior = "posterior:", kTopK = ":topk=";
  std::string file = text.substr(kPosterior.size());
  int64_t top_k = 0;
  if (const size_t at = file.rfind(kTopK); at != std::string::npos) {
    const std::optional<int64_t> value = parse_integer(file.substr(at + kTopK.size()));
    if (!value || *value < 1) fail_usage("--expert-weights {}: topk must be a number from 1", text);
    top_k = *value;
    file.resize(at);
  }
  if (file.empty()) fail_usage("--expert-weights {}: names no file after posterior:", text);
  const ExpertPrior prior = read_expert_prior(file, experts.router().clusters(), experts.router().content_hash());
  return kept_prior(prior.prior, experts.present(), top_k);
}

}  // namespace

std::vector<double> expert_weights(const std::string& text, const ExpertSet& experts) {
  if (text == "uniform") return kept_prior(std::vector<double>(experts.present().size(), 1.0), experts.present(), 0);
  if (text.starts_with("posterior:")) return prior_weights(text, experts);
  return listed_weights(text, experts.present());
}

Json averaged_experts_json(const ExpertSet& experts, const std::vector<double>& weights) {
  Json parents = Json::array();
  for (const Expert& expert : experts.experts()) {
    const double weight = weights[static_cast<size_t>(expert.cluster)];
    if (weight > 0)
      parents.push_back({{"cluster", expert.cluster},
                         {"expert", expert.directory.filename().string()},
                         {"weight", weight},
                         {"weights_hash", ModelCheckpoint::open(expert.directory).weights_hash()}});
  }
  return parents;
}

}  // namespace cbtm
