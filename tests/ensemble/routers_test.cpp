// Evaluation and generation by posterior and uniform routers against a brute force of their own: every expert's logits
// of every prefix, log-softmax in float64, and the formulas written out.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "cbtm/base/error.h"
#include "cbtm/ensemble/evaluate.h"
#include "cbtm/ensemble/session.h"
#include "tests/ensemble/golden_ensemble.h"

namespace cbtm {
namespace {

using Row = std::vector<double>;

constexpr size_t kExperts = 4;
const Row kPrior = {0.4, 0.1, 0.3, 0.2};

Device& device() {
  static const std::unique_ptr<Device> cpu = make_cpu_device();
  return *cpu;
}

/// ln p of the whole vocabulary after each token of a text, for each expert: [experts][tokens][vocabulary].
std::vector<std::vector<Row>> distributions(const ExpertSet& experts, const std::vector<int32_t>& ids) {
  std::vector<std::vector<Row>> result;
  const std::vector<int32_t> offsets = {0, static_cast<int32_t>(ids.size())};
  for (size_t j = 0; j < kExperts; ++j) {
    const auto model = experts.load(device(), static_cast<int64_t>(j));
    const auto vocab = static_cast<size_t>(model->vocab_size());
    std::vector<float> logits(ids.size() * vocab);
    model->logits({ids, offsets}, logits);
    result.emplace_back();
    for (size_t t = 0; t < ids.size(); ++t) {
      Row row(logits.begin() + static_cast<int64_t>(t * vocab), logits.begin() + static_cast<int64_t>((t + 1) * vocab));
      double sum = 0;
      for (const double value : row) sum += std::exp(value);
      for (double& value : row) value -= std::log(sum);
      result.back().push_back(std::move(row));
    }
  }
  return result;
}

/// Weights of the token at place n by products of the probabilities of the tokens at places `from` .. n - 1.
Row weigh(const std::vector<std::vector<Row>>& all, const std::vector<int32_t>& ids, const Row& prior, size_t from,
          size_t n) {
  Row logs(kExperts, -INFINITY);
  for (size_t j = 0; j < kExperts; ++j) {
    if (prior[j] == 0) continue;
    logs[j] = std::log(prior[j]);
    for (size_t s = from; s < n; ++s) logs[j] += all[j][s - 1][static_cast<size_t>(ids[s])];
  }
  const double highest = *std::max_element(logs.begin(), logs.end());
  double sum = 0;
  for (double& value : logs) sum += value = std::exp(value - highest);
  for (double& value : logs) value /= sum;
  return logs;
}

struct System {
  std::shared_ptr<const RoutingMethod> router;
  std::function<Row(const std::vector<std::vector<Row>>&, const std::vector<int32_t>&, size_t)> weights;
};

std::vector<System> systems(const std::vector<uint8_t>& present) {
  const Row uniform(kExperts, 0.25), kept = {0.4 / 0.7, 0, 0.3 / 0.7, 0};
  const auto exact = [](const Row& prior) {
    return [prior](const auto& all, const auto& ids, size_t n) { return weigh(all, ids, prior, 1, n); };
  };
  const auto last = [](const Row& prior, const Row& start) {
    return [prior, start](const auto& all, const auto& ids, size_t n) {
      return n == 1 ? start : weigh(all, ids, prior, n - 1, n);
    };
  };
  return {
      {posterior_routing({}, present), exact(uniform)},
      {posterior_routing({.likelihood = Likelihood::last}, present), last(uniform, uniform)},
      {posterior_routing({.prior = kPrior, .top_k = 2}, present), exact(kept)},
      {posterior_routing({.likelihood = Likelihood::last, .prior = kPrior, .top_k = 2}, present),
       last(kept, {0.5, 0, 0.5, 0})},
      {posterior_routing({.likelihood = Likelihood::last, .prior = kPrior, .top_k = 2, .first_from_all = true},
                         present),
       last(kept, uniform)},
      {uniform_routing(present), [uniform](const auto&, const auto&, size_t) { return uniform; }},
  };
}

TEST_CASE("evaluation by several routers in one pass equals the formulas, and a mixture beside them is unchanged") {
  const ExpertSet experts = golden_experts();
  const std::vector<EvaluationDocument> documents = golden_documents();
  const std::vector<System> all = systems(experts.present());
  EvaluationOptions options{.mixtures = {{2, 0.1, 2}}};
  for (const System& system : all) options.routers.push_back(system.router);
  options.detailed = {1, 2, 3, 4, 5, 6};
  std::vector<std::vector<TokenDetails>> details(all.size() + 1);
  options.token_details = [&](const EvaluationDocument&, const TokenDetails& one) {
    details[one.score].push_back(one);
  };
  const Evaluation evaluation = evaluate_ensemble(device(), experts, documents, options);
  REQUIRE(evaluation.scores.size() == all.size() + 1);
  CHECK(details[0].empty());
  CHECK(evaluation.scores[0].negative_log_likelihood ==
        evaluate_ensemble(device(), experts, documents, {.mixtures = {{2, 0.1, 2}}}).scores[0].negative_log_likelihood);
  for (size_t s = 0; s < all.size(); ++s) {
    CAPTURE(s);
    double loss = 0;
    for (size_t d = 0; d < documents.size(); ++d) {
      const std::vector<int32_t>& ids = documents[d].ids;
      const auto p = distributions(experts, ids);
      const TokenDetails& got = details[s + 1].at(d);
      REQUIRE(got.log_probabilities.size() == ids.size() - 1);
      double largest_weight = 0, largest_log = 0;
      for (size_t n = 1; n < ids.size(); ++n) {
        const Row weights = all[s].weights(p, ids, n);
        double mixed = 0;
        for (size_t j = 0; j < kExperts; ++j) {
          mixed += weights[j] * std::exp(p[j][n - 1][static_cast<size_t>(ids[n])]);
          largest_weight = std::max(largest_weight, std::abs(got.weights[(n - 1) * kExperts + j] - weights[j]));
        }
        loss -= std::log(mixed);
        largest_log = std::max(largest_log, std::abs(got.log_probabilities[n - 1] - std::log(mixed)));
      }
      // Logits of a few units in float32, whose errors of about 1e-6 add up over at most 118 tokens.
      CHECK(largest_weight < 1e-4);
      CHECK(largest_log < 1e-4);
    }
    CHECK(evaluation.scores[s + 1].negative_log_likelihood == doctest::Approx(loss).epsilon(1e-5));
  }
}

TEST_CASE("experts that a prior cuts never run, or only over the first token") {
  const ExpertSet experts = golden_experts();
  const std::vector<EvaluationDocument> documents = golden_documents();
  int64_t targets = 0;
  for (const EvaluationDocument& document : documents) targets += static_cast<int64_t>(document.ids.size()) - 1;
  const auto read_by = [&](std::shared_ptr<const RoutingMethod> router) {
    EvaluationOptions options;
    options.routers = {std::move(router)};
    return evaluate_ensemble(device(), experts, documents, options).tokens_read;
  };
  PosteriorOptions cut{.likelihood = Likelihood::last, .prior = kPrior, .top_k = 2};
  CHECK(read_by(posterior_routing(cut, experts.present())) == 2 * targets);
  cut.first_from_all = true;
  CHECK(read_by(posterior_routing(cut, experts.present())) == 2 * targets + 2 * static_cast<int64_t>(documents.size()));
  CHECK(read_by(posterior_routing({}, experts.present())) == 4 * targets);
}

TEST_CASE("the updating prior goes from document to document, in their order") {
  const ExpertSet experts = golden_experts();
  std::vector<EvaluationDocument> documents = golden_documents();
  documents.insert(documents.begin() + 1, {"one token", {5}});
  documents.insert(documents.begin() + 2, {"two tokens", {5, 6}});
  EvaluationOptions options;
  options.routers = {posterior_routing({.likelihood = Likelihood::last, .updating = true}, experts.present())};
  std::vector<TokenDetails> details;
  options.token_details = [&](const EvaluationDocument&, const TokenDetails& one) { details.push_back(one); };
  const Evaluation evaluation = evaluate_ensemble(device(), experts, documents, options);
  REQUIRE(details.size() == documents.size());
  Row prior(kExperts, 0.25);
  bool first = true;
  for (size_t d = 0; d < documents.size(); ++d) {
    const std::vector<int32_t>& ids = documents[d].ids;
    const size_t length = ids.size();
    for (size_t j = 0; j < kExperts; ++j) CHECK(std::abs(details[d].prior[j] - prior[j]) < 1e-5);
    if (length < 2) continue;
    const Row last =
        length == 2 ? Row(kExperts, 0.25) : weigh(distributions(experts, ids), ids, prior, length - 2, length - 1);
    for (size_t j = 0; j < kExperts; ++j) prior[j] = first ? last[j] : 0.7 * prior[j] + 0.3 * last[j];
    first = false;
    for (size_t j = 0; j < kExperts; ++j) CHECK(std::abs(details[d].prior_after[j] - prior[j]) < 1e-5);
  }
  REQUIRE(evaluation.carried.front().size() == kExperts);
  for (size_t j = 0; j < kExperts; ++j) CHECK(std::abs(evaluation.carried.front()[j] - prior[j]) < 1e-5);
}

TEST_CASE("greedy generation by posterior and uniform routers") {
  const ExpertSet experts = golden_experts();
  constexpr int64_t kNew = 8;
  std::vector<std::vector<int32_t>> prompts;
  for (const EvaluationDocument& document : golden_documents())
    prompts.push_back({document.ids.begin(), document.ids.begin() + 3 + static_cast<int64_t>(prompts.size()) * 4});
  prompts.push_back({2});  // nothing but </s>: no token has been predicted yet
  const std::vector<System> all = systems(experts.present());
  for (size_t s = 0; s < all.size(); ++s) {
    CAPTURE(s);
    const auto scorer = ensemble_scorer(generation_pool(device(), experts), all[s].router, {});
    GenerationOptions options;
    options.new_tokens_max = kNew;
    options.sampling.greedy = true;
    options.ignore_eos = true;
    options.top_scores = 0;
    const std::vector<Generated> got = generate(*scorer, nullptr, prompts, options);
    for (size_t i = 0; i < prompts.size(); ++i) {
      CAPTURE(i);
      std::vector<int32_t> ids = prompts[i];
      for (int64_t step = 0; step < kNew; ++step) {
        const auto p = distributions(experts, ids);
        const Row weights = all[s].weights(p, ids, ids.size());
        Row mixed(p[0][0].size());
        for (size_t j = 0; j < kExperts; ++j)
          for (size_t v = 0; v < mixed.size(); ++v) mixed[v] += weights[j] * std::exp(p[j].back()[v]);
        const auto best = std::max_element(mixed.begin(), mixed.end());
        const auto chosen = static_cast<size_t>(got[i].ids.at(static_cast<size_t>(step)));
        // Equal but for ties within rounding, where either is right.
        CHECK(mixed[chosen] >= *best * (1 - 1e-4));
        for (size_t j = 0; j < kExperts; ++j)
          CHECK(std::abs(got[i].weights.at(static_cast<size_t>(step))[j] - weights[j]) < 1e-4);
        ids.push_back(static_cast<int32_t>(chosen));
      }
    }
  }
}

TEST_CASE("a prior that moves from text to text is refused for generation") {
  const ExpertSet experts = golden_experts();
  CHECK_THROWS_WITH_AS(
      ensemble_scorer(generation_pool(device(), experts), posterior_routing({.updating = true}, experts.present()), {}),
      doctest::Contains("fit one with 'cbtm ensemble prior'"), Error);
}

}  // namespace
}  // namespace cbtm
