// The perplexity of experts mixed by coefficients, against the formula over whole distributions.

#include "cbtm/ensemble/coefficient_evaluation.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "tests/ensemble/golden_ensemble.h"

namespace cbtm {
namespace {

/// ln softmax(Σ_j c_j ln p_j) of every target, in float64, from each expert's plain forward pass.
double brute_force(const ExpertSet& experts, Device& device, const std::vector<int32_t>& ids,
                   const std::vector<double>& coefficients) {
  const std::vector<int32_t> offsets = {0, static_cast<int32_t>(ids.size())};
  std::vector<double> mixed;
  size_t vocab = 0;
  for (size_t j = 0; j < coefficients.size(); ++j) {
    if (coefficients[j] == 0) continue;
    const auto model = experts.load(device, static_cast<int64_t>(j));
    vocab = static_cast<size_t>(model->vocab_size());
    std::vector<float> logits(ids.size() * vocab);
    model->logits({ids, offsets}, logits);
    mixed.resize(logits.size());
    for (size_t row = 0; row < ids.size(); ++row) {
      double sum = 0;
      for (size_t v = 0; v < vocab; ++v) sum += std::exp(static_cast<double>(logits[row * vocab + v]));
      for (size_t v = 0; v < vocab; ++v)
        mixed[row * vocab + v] += coefficients[j] * (static_cast<double>(logits[row * vocab + v]) - std::log(sum));
    }
  }
  double nats = 0;
  for (size_t row = 0; row + 1 < ids.size(); ++row) {
    double sum = 0;
    for (size_t v = 0; v < vocab; ++v) sum += std::exp(mixed[row * vocab + v]);
    nats -= mixed[row * vocab + static_cast<size_t>(ids[row + 1])] - std::log(sum);
  }
  return nats;
}

TEST_CASE("the perplexity of experts mixed by coefficients equals the formula") {
  const auto device = make_cpu_device();
  const ExpertSet experts = golden_experts();
  const std::vector<EvaluationDocument> documents = golden_documents();
  for (const std::vector<double>& coefficients :
       {std::vector<double>{0, 1, 0, 0}, std::vector<double>{1, 0, -0.5, 0}, std::vector<double>{0.4, 0.3, 0.2, 0.1}}) {
    const auto pool = std::make_shared<ExpertPool>(*device, experts, 1 << 26);
    const Evaluation evaluation = evaluate_coefficients(pool, documents, coefficients, experts.max_length());
    REQUIRE(evaluation.scores.size() == 1);
    const Score& score = evaluation.scores.front();
    CHECK(score.top_k ==
          std::count_if(coefficients.begin(), coefficients.end(), [](double coefficient) { return coefficient != 0; }));
    double nats = 0;
    for (size_t d = 0; d < documents.size(); ++d) {
      std::vector<int32_t> ids = documents[d].ids;
      ids.resize(std::min(ids.size(), static_cast<size_t>(experts.max_length())));
      const double expected = brute_force(experts, *device, ids, coefficients);
      CHECK(score.documents[d].tokens == static_cast<int64_t>(ids.size()) - 1);
      // float32 logits of a few units, added up over the tokens
      CHECK(std::abs(score.documents[d].negative_log_likelihood - expected) < 1e-4 * static_cast<double>(ids.size()));
      nats += score.documents[d].negative_log_likelihood;
    }
    CHECK(score.negative_log_likelihood == doctest::Approx(nats));
  }
}

TEST_CASE("one expert alone has its own perplexity, and documents are cut as they are for routers") {
  const auto device = make_cpu_device();
  const ExpertSet experts = golden_experts();
  const std::vector<EvaluationDocument> documents = golden_documents();
  const auto pool = std::make_shared<ExpertPool>(*device, experts, 1 << 26);
  const Evaluation mixed = evaluate_coefficients(pool, documents, {0, 0, 1, 0}, 8);
  const Evaluation alone = evaluate_model(*experts.load(*device, 2), documents, 8);
  CHECK(mixed.scores[0].tokens == alone.scores[0].tokens);
  CHECK(mixed.scores[0].perplexity() == doctest::Approx(alone.scores[0].perplexity()).epsilon(1e-5));
}

}  // namespace
}  // namespace cbtm
