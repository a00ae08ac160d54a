#include "cbtm/accounting/best_k.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"

namespace cbtm {
namespace {

// The paper's experts are OPT-1.3B; its middle budget is 42 billion tokens, and 16 experts are a good choice in most of
// its comparisons (docs/accounting.md, 'The number of experts').
constexpr int64_t kPaperK = 16;
constexpr double kPaperTokens = 41.9e9;
constexpr double kPaperParameters = 1.3e9;
constexpr double kPaperTokensPerParameter = kPaperTokens / (static_cast<double>(kPaperK) * kPaperParameters);

SuggestedK by_fit(std::span<const int64_t> candidates, int64_t tokens, int64_t parameters, const StudyFit& fit) {
  const double wanted = fit.best_k(tokens);
  const int64_t nearest = *std::min_element(candidates.begin(), candidates.end(), [&](int64_t a, int64_t b) {
    const auto distance = [&](int64_t k) { return std::abs(std::log2(static_cast<double>(k) / wanted)); };
    return distance(a) < distance(b);
  });
  std::string reason = fmt::format("the study's fit gives {:.1f} experts for {} tokens", wanted, format_count(tokens));
  if (tokens < fit.tokens_min || tokens > fit.tokens_max)
    reason += fmt::format("; it measured {} to {} tokens, so this is an extrapolation", format_count(fit.tokens_min),
                          format_count(fit.tokens_max));
  if (parameters != fit.parameters)
    reason += fmt::format("; its experts have {} parameters, these {}", format_count(fit.parameters),
                          format_count(parameters));
  return {nearest, reason};
}

SuggestedK by_paper(std::span<const int64_t> candidates, int64_t tokens, int64_t parameters) {
  const double limit = static_cast<double>(tokens) / (static_cast<double>(parameters) * kPaperTokensPerParameter);
  int64_t largest = 0;
  for (const int64_t k : candidates)
    if (k <= kPaperK && static_cast<double>(k) <= limit) largest = std::max(largest, k);
  const auto share = [&](int64_t k) {
    return static_cast<double>(tokens) / static_cast<double>(k) / static_cast<double>(parameters);
  };
  if (largest > 0)
    return {largest, fmt::format("the paper's relation: the best k grows with the budget, up to {} in most of its "
                                 "comparisons; each expert gets {:.2g} tokens per parameter, at least the {:.1f} of "
                                 "the paper's {} experts at 42 billion tokens",
                                 kPaperK, share(largest), kPaperTokensPerParameter, kPaperK)};
  const int64_t smallest = *std::min_element(candidates.begin(), candidates.end());
  if (smallest > kPaperK && static_cast<double>(kPaperK) <= limit)
    return {smallest, fmt::format("the paper's relation: {} experts are a good choice in most of its comparisons, and "
                                  "all of those asked for are more",
                                  kPaperK)};
  return {smallest, fmt::format("the paper's relation: the best k grows with the budget, and even with {} experts each "
                                "gets only {:.2g} tokens per parameter, less than the {:.1f} of the paper's {} experts "
                                "at 42 billion tokens; a dense model may do as well",
                                smallest, share(smallest), kPaperTokensPerParameter, kPaperK)};
}

}  // namespace

double StudyFit::best_k(int64_t tokens) const {
  const double k = std::exp2(intercept + slope * std::log2(static_cast<double>(tokens)));
  return std::clamp(k, static_cast<double>(k_min), static_cast<double>(k_max));
}

std::optional<StudyFit> parse_study_fit(const Json& json, const std::string& file) {
  constexpr int64_t kTokensMax = int64_t{1} << 56;
  constexpr int64_t kMost = 65'536;
  constexpr double kExponentMax = 100;
  const JsonReader read(json, file, "make it again with 'cbtm study', or leave --study out");
  if (!read.has("fit")) return std::nullopt;
  const JsonReader fit = read.object("fit");
  StudyFit parsed{.intercept = fit.number("intercept", -kExponentMax, kExponentMax),
                  .slope = fit.number("slope", -kExponentMax, kExponentMax),
                  .tokens_min = fit.integer("tokens_min", 1, kTokensMax),
                  .tokens_max = fit.integer("tokens_max", 1, kTokensMax),
                  .k_min = fit.integer("k_min", 1, kMost),
                  .k_max = fit.integer("k_max", 1, kMost),
                  .parameters = fit.integer("parameters", 1, kTokensMax)};
  if (parsed.tokens_min > parsed.tokens_max) fit.refuse("'tokens_min' is above 'tokens_max'");
  if (parsed.k_min > parsed.k_max) fit.refuse("'k_min' is above 'k_max'");
  return parsed;
}

SuggestedK suggest_k(std::span<const int64_t> candidates, int64_t tokens, int64_t parameters,
                     const std::optional<StudyFit>& fit) {
  CBTM_ASSERT(!candidates.empty() && tokens >= 1 && parameters >= 1, "there is something to choose from and for");
  return fit ? by_fit(candidates, tokens, parameters, *fit) : by_paper(candidates, tokens, parameters);
}

}  // namespace cbtm
