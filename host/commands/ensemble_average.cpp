#include "commands/ensemble_average.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/numbers.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/model/families.h"
#include "cbtm/route/expert_prior.h"
#include "cbtm/route/routing_method.h"
#include "commands/expert_flags.h"

namespace cbtm {
namespace {

/// Throws Error if DIR holds something that is not an averaged model.
void check_output(const std::filesystem::path& out) {
  check_replaceable(out);
  std::error_code error;
  if (std::filesystem::exists(out / "expert.json", error) ||
      (std::filesystem::exists(out, error) && !std::filesystem::is_empty(out, error) && !holds_model(out)))
    fail("{}: holds another result of cbtm, not an averaged model; name another directory", out.string());
}

/// "0.2,0.5,0.3": one weight per cluster.
std::vector<double> listed_weights(const std::string& text, const std::vector<uint8_t>& present) {
  std::vector<double> weights;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::optional<double> weight = parse_number(text.substr(begin, end - begin));
    if (!weight || *weight < 0)
      fail_usage("--expert-weights {}: use uniform, one weight per cluster as 0.2,0.8, or posterior:FILE", text);
    weights.push_back(*weight);
    begin = end + 1;
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
  const ExpertPrior prior = read_expert_prior(file, experts.router().clusters(), experts.router().content_hash());
  return kept_prior(prior.prior, experts.present(), top_k);
}

std::vector<double> weights_of(const std::string& text, const ExpertSet& experts) {
  if (text == "uniform") return kept_prior(std::vector<double>(experts.present().size(), 1.0), experts.present(), 0);
  if (text.starts_with("posterior:")) return prior_weights(text, experts);
  return listed_weights(text, experts.present());
}

DType stored_type(const CommandLine& line) {
  const std::string text = line.text("stored-type");
  if (text == "float32") return DType::f32;
  if (text == "bf16") return DType::bf16;
  if (text == "fp16") return DType::f16;
  fail_usage("--stored-type {}: use float32, bf16 or fp16", text);
}

}  // namespace

int average_experts(const CommandLine& line) {
  if (line.given("router") && names_router_kind(line.text("router")))
    fail_usage("--router {}: an average has no router; a directory is that of the experts' clusters",
               line.text("router"));
  check_output(line.path("out"));
  const DType stored = stored_type(line);
  const ExpertSet experts = open_experts(line, nullptr);
  const std::vector<double> weights = weights_of(line.text("expert-weights"), experts);
  AtomicDirectory output(line.path("out"));
  write_model_checkpoint(output.path(), read_model_spec(model_config_file(experts.experts().front().directory)),
                         average_parameters(experts, weights), stored);
  experts.tokenizer().save(output.path());
  Json parents = Json::array();
  for (const Expert& expert : experts.experts()) {
    const double weight = weights[static_cast<size_t>(expert.cluster)];
    if (weight > 0)
      parents.push_back({{"cluster", expert.cluster},
                         {"expert", expert.directory.filename().string()},
                         {"weight", weight},
                         {"weights_hash", ModelCheckpoint::open(expert.directory).weights_hash()}});
  }
  write_json_file(output.path() / "average.json", {{"format", 1},
                                                   {"weights", line.text("expert-weights")},
                                                   {"experts", parents},
                                                   {"router_hash", experts.router().content_hash()},
                                                   {"command", line.as_typed()}});
  output.commit();
  if (line.text("expert-weights") == "uniform") {
    fmt::print("{}: the mean of {} experts\n", line.text("out"), experts.experts().size());
  } else {
    fmt::print("{}: the weighted mean of {} experts\n", line.text("out"), parents.size());
  }
  for (const Json& parent : parents)
    fmt::print("{}  {:.6f}  {}\n", RunDirectory::cluster_name(parent["cluster"].get<int64_t>()),
               parent["weight"].get<double>(), parent["expert"].get<std::string>());
  return kExitSuccess;
}

}  // namespace cbtm
