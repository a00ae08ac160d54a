#include "commands/coefficient_evaluation.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "cbtm/base/error.h"
#include "cbtm/base/numbers.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/signals.h"
#include "cbtm/base/split.h"
#include "cbtm/device/open_device.h"
#include "cbtm/ensemble/coefficient_evaluation.h"
#include "cbtm/ensemble/coefficients.h"
#include "cbtm/ensemble/next_token_scorer.h"
#include "commands/evaluation_flags.h"
#include "commands/expert_flags.h"
#include "commands/type_flags.h"

namespace cbtm {

std::vector<double> coefficients_flag(const CommandLine& line, const ExpertSet& experts) {
  const std::string text = line.text("coefficients");
  std::vector<std::pair<std::string, double>> named;
  for (const std::string& part : split(text, ',')) {
    const size_t equals = std::min(part.find('='), part.size());
    const std::optional<double> value = parse_number(equals < part.size() ? part.substr(equals + 1) : std::string());
    if (equals == 0 || !value) fail_usage("--coefficients {}: write experts and numbers, such as 000=1,002=-0.5", text);
    named.emplace_back(part.substr(0, equals), *value);
  }
  try {
    return coefficients_of(experts, named);
  } catch (const Error& error) {
    fail_usage("--coefficients {}: {}", text, error.what());
  }
}

void check_coefficients_alone(const CommandLine& line) {
  if (!line.given("coefficients")) return;
  for (const char* flag : {"topk", "router", "router-temperature", "distance-power", "routing"})
    if (line.given(flag)) fail_usage("--{} is how experts are routed, and --coefficients routes nothing", flag);
}

int evaluate_with_coefficients(const CommandLine& line) {
  check_coefficients_alone(line);
  for (const char* flag : {"matrix", "token-log-probs"})
    if (line.given(flag)) fail_usage("--{} is of routed experts; leave --coefficients or it out", flag);
  install_stop_signals();
  const ExpertSet experts = open_experts(line, nullptr);  // nothing is routed
  const std::vector<double> coefficients = coefficients_flag(line, experts);
  const std::unique_ptr<Device> device = open_device(line.common().device, line.common().profile);
  const int64_t length_max = line.given("max-tokens") ? line.integer("max-tokens", 1, experts.max_length()) : 0;
  Json described;
  const auto documents = documents_of(line, experts.tokenizer(), run_of(line), described);
  const auto pool = generation_pool(*device, experts, memory_flag(line));
  const Evaluation evaluation = evaluate_coefficients(pool, documents, coefficients, length_max);
  const Score& score = evaluation.scores.front();
  fmt::print("{} experts by coefficients  perplexity {:.4f}\n{} tokens of {} documents in {:.1f} s\n", score.top_k,
             score.perplexity(), format_count(score.tokens), format_count(static_cast<int64_t>(documents.size())),
             evaluation.seconds);
  const Json settings = {{"experts", line.text("experts")},
                         {"top_k", score.top_k},
                         {"coefficients", coefficients},
                         {"max_tokens", length_max > 0 ? length_max : experts.trained_length()},
                         {"weights", weight_format_name(weights_flag(line))},
                         {"experts_present", experts.present()},
                         {"command", line.as_typed()}};
  warn_of_lost_files(described.value("read", Json()));
  line.write_json(evaluation_json(evaluation_result(evaluation, settings, described)));
  return kExitSuccess;
}

}  // namespace cbtm
