#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "cbtm/base/error.h"
#include "cbtm/base/philox.h"
#include "cbtm/device/model_operators.h"
#include "tests/operators/cases.h"
#include "tests/operators/mixture_reference.h"

namespace cbtm {
namespace {

struct SamplingSettings {
  MixtureSettings mixture;
  bool greedy = false;
  TokenFilter filter = {};
  uint64_t draw = 0;
};

/// The tokens that a draw may give: one, or those that rounding cannot tell apart.
///
/// A probability is off by the relative error of its token, the sum of all by no more, so a running sum is off by
/// 2 * error at most. Tokens at the border of what top-k or top-p keep, whose scores differ by less than their errors
/// or whose mass does, may be kept or not: that moves a running sum by their mass.
std::vector<double> possible_tokens(const std::vector<Bounded>& scores, const SamplingSettings& s, double uniform) {
  std::vector<double> exact;
  double error = 0;
  for (const Bounded& score : scores) {
    exact.push_back(score.value);
    if (std::isfinite(score.value)) error = std::max(error, score.error);
  }
  const double highest = *std::ranges::max_element(exact);
  std::vector<double> tokens;
  if (s.greedy) {
    bool first_seen = false;
    for (size_t v = 0; v < exact.size(); ++v) {
      if (exact[v] < highest - 2 * error || (exact[v] == highest && first_seen)) continue;  // of equals the first
      first_seen |= exact[v] == highest;
      tokens.push_back(static_cast<double>(v));
    }
    return tokens;
  }
  const double temperature = s.filter.temperature;
  for (double& score : exact) score = (score - highest) / temperature;
  error = error / temperature + 4 * kRoundoff;
  std::vector<size_t> order(exact.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, [&](size_t a, size_t b) { return exact[a] > exact[b]; });
  // Tokens below `certain` in the order are kept, those from `possible` on are not.
  size_t certain = order.size(), possible = order.size();
  const auto score_at = [&](size_t place) { return exact[order[place]]; };
  const auto spread = [&] {  // to what rounding cannot tell from the tokens on either side of the border
    while (certain > 0 && possible < order.size() && score_at(certain - 1) != score_at(possible) &&
           score_at(certain - 1) - score_at(possible) <= 2 * error)
      --certain, ++possible;
  };
  if (s.filter.top_k > 0 && s.filter.top_k < static_cast<int64_t>(order.size())) {
    certain = static_cast<size_t>(s.filter.top_k);
    while (certain < order.size() && score_at(certain) == score_at(certain - 1)) ++certain;  // ties are kept
    possible = certain;
    spread();
  }
  double sum = 0;
  for (size_t i = 0; i < certain; ++i) sum += std::exp(score_at(i));
  if (s.filter.top_p < 1) {
    const size_t most = certain;
    const auto tokens_with = [&](double mass_wanted) {  // the likeliest of so much mass in all, one at least
      double mass = std::exp(score_at(0));
      size_t count = 1;
      while (count < most && mass < mass_wanted) mass += std::exp(score_at(count++));
      return std::pair(count, mass);
    };
    const double wanted = s.filter.top_p * sum, tolerance = 4 * error * sum;
    certain = tokens_with(wanted - tolerance).first;
    possible = tokens_with(wanted + tolerance).first;
    sum = tokens_with(wanted).second;
    spread();
  }
  std::vector<double> probabilities(exact.size());
  for (size_t i = 0; i < possible; ++i) probabilities[order[i]] = std::exp(score_at(i)) / sum;
  double mass = 0, last = 0, uncertain = 0;
  for (size_t i = certain; i < possible; ++i) uncertain += probabilities[order[i]];
  const double slack = 2 * error + 2 * uncertain + static_cast<double>(exact.size()) * 0x1p-40;
  for (size_t v = 0; v < probabilities.size(); ++v) {
    if (probabilities[v] <= 0) continue;
    last = static_cast<double>(v);
    if (uniform < mass + probabilities[v] + slack && uniform >= mass - slack) tokens.push_back(last);
    mass += probabilities[v];
  }
  if (tokens.empty()) tokens.push_back(last);
  return tokens;
}

OperatorCase make_sampling(const SamplingSettings& s) {
  OperatorCase one{.computed = s.mixture.dtype};
  const MixtureOperands in = add_mixture(one, s.mixture);
  const int64_t sequences = s.mixture.sequences;
  PhiloxStream random(s.draw, 7);
  std::vector<double> drawn(static_cast<size_t>(sequences));
  for (double& uniform : drawn) uniform = random.next_uniform();
  if (s.draw == 1) {
    drawn.front() = 0;
    drawn.back() = 1 - 0x1p-53;
  }
  const Operand uniforms = one.input("uniforms", DType::f64, 1, sequences, drawn);
  const Operand tokens = one.output("tokens", DType::i32, 1, sequences);
  one.run = [=](Device& device, OperandsOnDevice& on) {
    const std::vector<ConstTensorView> logits = in.views(on);
    device.model_operators().sample_mixture({.logits = logits,
                                             .rows = on[in.rows],
                                             .weights = on[in.weights],
                                             .uniforms = on[uniforms],
                                             .greedy = s.greedy,
                                             .filter = s.filter,
                                             .tokens = on[tokens],
                                             .kind = kind_of(s.mixture)});
  };
  one.reference = [=](Expectation& e) {
    for (int64_t q = 0; q < sequences; ++q)
      e.expect_one_of(tokens, 0, q, possible_tokens(mixture_reference(s.mixture, in, e, q), s, e[uniforms].at(0, q)));
  };
  return one;
}

}  // namespace

CaseList sampling_cases() {
  CaseList cases;
  const auto add = [&](const SamplingSettings& s, bool large = false) {
    const std::string filter = s.greedy ? "greedy"
                                        : fmt::format("temperature {} top_k {} top_p {} draw {}", s.filter.temperature,
                                                      s.filter.top_k, s.filter.top_p, s.draw);
    cases.push_back({fmt::format("sample_mixture {}, {}", mixture_name(s.mixture), filter), large,
                     [s] { return make_sampling(s); }});
  };
  const TokenFilter filters[] = {{},
                                 {.temperature = 0.7},
                                 {.top_k = 1},
                                 {.top_k = 17},
                                 {.top_p = 0.3},
                                 {.top_p = 1e-9},
                                 {.temperature = 1.5, .top_k = 40, .top_p = 0.8}};
  for (const int64_t vocab : {1, 37, 1030, 5000}) {
    MixtureSettings mixture{.sequences = 4, .experts = 3, .vocab = vocab, .mapped = true};
    mixture.integers = vocab == 1030;
    add({.mixture = mixture, .greedy = true});
    mixture.product = true;
    add({.mixture = mixture, .greedy = true});
    add({.mixture = mixture, .filter = filters[6]});
    mixture.product = false;
    for (const TokenFilter& filter : filters)
      for (const uint64_t draw : {0, 1}) add({.mixture = mixture, .filter = filter, .draw = draw});
  }
  for (const int64_t sequences : {1, 8}) {
    const MixtureSettings mixture{.sequences = sequences, .experts = 4, .vocab = kVocabSize, .mapped = true};
    add({.mixture = mixture, .greedy = true}, true);
    add({.mixture = mixture, .filter = {.temperature = 0.8, .top_k = 50, .top_p = 0.9}}, true);
  }
  return cases;
}

}  // namespace cbtm
