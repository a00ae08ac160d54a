// Posterior routing against products of probabilities, written out in long double.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "cbtm/base/error.h"
#include "cbtm/base/philox.h"
#include "cbtm/route/routing_method.h"

namespace cbtm {
namespace {

using Row = std::vector<double>;

constexpr size_t kExperts = 5;
/// Rounding: some hundred operations on numbers around 1 in float64.
constexpr double kTolerance = 1e-12;

/// ln of the probability that each expert gave to each target: [targets][experts].
std::vector<Row> random_text(PhiloxStream& random, size_t targets, double sharpness = 5) {
  std::vector<Row> text(targets, Row(kExperts));
  for (Row& row : text)
    for (double& value : row) value = -sharpness * static_cast<double>(random.next_below(1'000'000) + 1) / 1e6;
  return text;
}

void check_row(const Row& got, const Row& want) {
  REQUIRE(got.size() == want.size());
  for (size_t j = 0; j < got.size(); ++j) CHECK(std::abs(got[j] - want[j]) <= kTolerance);
}

/// prior[j] Π_{s < t} p_j(s) over the targets `from` .. t - 1, divided by the sum over j.
Row posterior(const Row& prior, const std::vector<Row>& text, size_t from, size_t t) {
  std::vector<long double> products(prior.begin(), prior.end());
  for (size_t s = from; s < t; ++s)
    for (size_t j = 0; j < products.size(); ++j) products[j] *= std::exp(static_cast<long double>(text[s][j]));
  const long double sum = std::accumulate(products.begin(), products.end(), 0.0L);
  Row result;
  for (const long double product : products) result.push_back(static_cast<double>(product / sum));
  return result;
}

/// The weights of every target as the method gives them.
std::vector<Row> weights_along(TextRouting& text, const std::vector<Row>& values) {
  std::vector<Row> result;
  for (const Row& row : values) {
    result.emplace_back(kExperts);
    text.weights({}, result.back());
    text.observe(row);
  }
  return result;
}

TEST_CASE("the exact posterior is Bayes' rule over all tokens so far") {
  PhiloxStream random(1, 0);
  const auto method = posterior_routing({}, std::vector<uint8_t>(kExperts, 1));
  const Row uniform(kExperts, 0.2);
  const std::vector<Row> text = random_text(random, 60);
  const std::vector<Row> got = weights_along(*method->begin(), text);
  for (size_t t = 0; t < text.size(); ++t) check_row(got[t], posterior(uniform, text, 0, t));
  const Row prior = {0.1, 0.4, 0.2, 0.25, 0.05};
  const auto with_prior = posterior_routing({.prior = prior}, std::vector<uint8_t>(kExperts, 1));
  const std::vector<Row> weighed = weights_along(*with_prior->begin(), text);
  for (size_t t = 0; t < text.size(); ++t) check_row(weighed[t], posterior(prior, text, 0, t));
}

TEST_CASE("the last-token posterior forgets all but one token, and begins with equal weights") {
  PhiloxStream random(2, 0);
  const std::vector<Row> text = random_text(random, 30);
  for (const Row& prior : {Row{}, Row{0.1, 0.4, 0.2, 0.25, 0.05}}) {
    const auto method =
        posterior_routing({.likelihood = Likelihood::last, .prior = prior}, std::vector<uint8_t>(kExperts, 1));
    const std::vector<Row> got = weights_along(*method->begin(), text);
    check_row(got[0], Row(kExperts, 0.2));
    for (size_t t = 1; t < text.size(); ++t)
      check_row(got[t], posterior(prior.empty() ? Row(kExperts, 0.2) : prior, text, t - 1, t));
  }
}

TEST_CASE("the evidence of very long texts neither underflows nor loses what small differences say") {
  const auto method = posterior_routing({}, std::vector<uint8_t>(kExperts, 1));
  const std::unique_ptr<TextRouting> text = method->begin();
  // 100,000 tokens of ln p = -9 + j * 1e-5: sums of 900,000 that differ by j.
  for (int t = 0; t < 100'000; ++t) {
    Row row(kExperts);
    for (size_t j = 0; j < kExperts; ++j) row[j] = -9 + 1e-5 * static_cast<double>(j);
    text->observe(row);
  }
  Row got(kExperts), want(kExperts);
  text->weights({}, got);
  double sum = 0;
  for (size_t j = 0; j < kExperts; ++j) sum += want[j] = std::exp(static_cast<double>(j));
  // A float64 sum of 1e5 terms of about 9e5: each addition errs by at most 2^-53 · 9e5, 1e-10, 1e-5 in all.
  for (size_t j = 0; j < kExperts; ++j) CHECK(std::abs(got[j] - want[j] / sum) <= 1e-5);
}

TEST_CASE("a text that no expert thinks possible leaves the prior") {
  const Row prior = {0.5, 0.125, 0.125, 0.125, 0.125};
  const auto method = posterior_routing({.prior = prior}, std::vector<uint8_t>(kExperts, 1));
  const std::unique_ptr<TextRouting> text = method->begin();
  text->observe(Row(kExperts, -INFINITY));
  Row got(kExperts);
  text->weights({}, got);
  check_row(got, prior);
}

TEST_CASE("the updating prior: 0.7 of the old one, 0.3 of the weights that the last token was predicted with") {
  PhiloxStream random(3, 0);
  for (const Likelihood likelihood : {Likelihood::last, Likelihood::exact}) {
    const auto method =
        posterior_routing({.likelihood = likelihood, .updating = true}, std::vector<uint8_t>(kExperts, 1));
    CHECK(method->carries_over());
    Row prior(kExperts, 0.2), carried;
    bool first = true;
    for (const size_t targets : {0, 7, 1, 0, 12, 3}) {
      const std::vector<Row> text = random_text(random, targets);
      const std::unique_ptr<TextRouting> routing = method->begin(carried);
      check_row(routing->prior(), prior);
      const std::vector<Row> got = weights_along(*routing, text);
      Row last;
      for (size_t t = 0; t < targets; ++t) {
        last = likelihood == Likelihood::exact ? posterior(prior, text, 0, t)
               : t == 0                        ? Row(kExperts, 0.2)
                                               : posterior(prior, text, t - 1, t);
        check_row(got[t], last);
      }
      if (targets > 0)
        for (size_t j = 0; j < kExperts; ++j) prior[j] = first ? last[j] : 0.7 * prior[j] + 0.3 * last[j];
      first = first && targets == 0;
      carried = method->carry(*routing, carried);
      if (targets > 0) check_row(carried, prior);
    }
  }
}

TEST_CASE("a prior's largest entries are kept; the cut experts are not wanted, but for the first token if so asked") {
  PhiloxStream random(4, 0);
  const Row prior = {0.2, 0.3, 0.05, 0.25, 0.2};
  const std::vector<uint8_t> all(kExperts, 1);
  const auto wanted = [](const RoutingMethod& method, int64_t position) {
    std::vector<uint8_t> out(kExperts);
    method.wanted(position, {}, out);
    return out;
  };
  // Of the equal 0 and 4 the lower index is kept.
  const std::vector<Row> kept = {
      {}, {0, 1, 0, 0, 0}, {0, 0.3 / 0.55, 0, 0.25 / 0.55, 0}, {0.2 / 0.75, 0.3 / 0.75, 0, 0.25 / 0.75, 0}};
  const std::vector<Row> text = random_text(random, 20);
  for (const int64_t top_k : {1, 2, 3}) {
    CAPTURE(top_k);
    const Row& cut = kept[static_cast<size_t>(top_k)];
    check_row(kept_prior(prior, all, top_k), cut);
    for (const bool first_from_all : {false, true}) {
      const auto method = posterior_routing(
          {.likelihood = Likelihood::last, .prior = prior, .top_k = top_k, .first_from_all = first_from_all}, all);
      CHECK(method->top_k() == top_k);
      std::vector<uint8_t> of_kept(kExperts);
      for (size_t j = 0; j < kExperts; ++j) of_kept[j] = cut[j] > 0;
      CHECK(wanted(*method, 1) == (first_from_all ? all : of_kept));
      CHECK(wanted(*method, 2) == of_kept);
      const std::vector<Row> got = weights_along(*method->begin(), text);
      Row start(kExperts);
      for (size_t j = 0; j < kExperts; ++j)
        start[j] = first_from_all ? 0.2 : cut[j] > 0 ? 1.0 / static_cast<double>(top_k) : 0.0;
      check_row(got[0], start);
      for (size_t t = 1; t < text.size(); ++t) check_row(got[t], posterior(cut, text, t - 1, t));
    }
  }
  check_row(kept_prior(prior, all, 9), kept_prior(prior, all, 0));
}

TEST_CASE("experts that are absent get no weight, whatever their probabilities") {
  PhiloxStream random(5, 0);
  const std::vector<uint8_t> present = {1, 0, 1, 1, 0};
  std::vector<Row> text = random_text(random, 10);
  for (Row& row : text) row[1] = row[4] = NAN;
  const Row third = {1.0 / 3, 0, 1.0 / 3, 1.0 / 3, 0};
  const auto method = posterior_routing({}, present);
  std::vector<uint8_t> wanted(kExperts);
  method->wanted(3, {}, wanted);
  CHECK(wanted == present);
  for (const Row& row : text) CHECK(row.size() == kExperts);
  std::vector<Row> finite = text;
  for (Row& row : finite) row[1] = row[4] = 0;
  const std::vector<Row> got = weights_along(*method->begin(), text);
  for (size_t t = 0; t < text.size(); ++t) check_row(got[t], posterior(third, finite, 0, t));
  Row weights(kExperts);
  uniform_routing(present)->begin()->weights({}, weights);
  check_row(weights, third);
  CHECK_THROWS_AS(kept_prior(Row{0, 1, 0, 0, 0}, present, 0), Error);
}

TEST_CASE("by distance: wanted are the nearest even where their weight underflows") {
  const Row distances = {9, 1, 4, 16, 1};
  const auto method = distance_routing({.top_k = 3, .temperature = 1e-9}, std::vector<uint8_t>(kExperts, 1));
  std::vector<uint8_t> wanted(kExperts);
  method->wanted(1, distances, wanted);
  CHECK(wanted == std::vector<uint8_t>{0, 1, 1, 0, 1});
  Row weights(kExperts);
  method->begin()->weights(distances, weights);
  check_row(weights, {0, 0.5, 0, 0, 0.5});
  CHECK(method->uses_distances());
  CHECK(!method->uses_probabilities());
}

}  // namespace
}  // namespace cbtm
