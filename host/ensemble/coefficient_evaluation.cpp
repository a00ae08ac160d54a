#include "cbtm/ensemble/coefficient_evaluation.h"

#include <algorithm>
#include <chrono>
#include <map>

#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/signals.h"
#include "cbtm/ensemble/coefficients.h"
#include "cbtm/ensemble/prompt_scorer.h"

namespace cbtm {
namespace {

/// Documents that are read at once, and about how many of their tokens in a step.
constexpr size_t kDocumentsAtOnce = 64;
constexpr int64_t kRowsAtOnce = 4096;

}  // namespace

Evaluation evaluate_coefficients(const std::shared_ptr<ExpertPool>& pool,
                                 const std::vector<EvaluationDocument>& documents,
                                 const std::vector<double>& coefficients, int64_t length_max) {
  const auto start = std::chrono::steady_clock::now();
  const ExpertSet& experts = pool->experts();
  const int64_t limit = length_max > 0 ? std::min(length_max, experts.max_length()) : experts.trained_length();
  const int64_t used = std::count_if(coefficients.begin(), coefficients.end(), [](double c) { return c != 0; });
  CBTM_ASSERT(used > 0, "something is mixed");
  const SequenceMixing mixing{.mixture = {.top_k = used},
                              .routing = {.schedule = RoutingSchedule::prompt},
                              .present = experts.present(),
                              .coefficients = coefficients};
  PromptScorer scorer(pool, mixing);
  Evaluation result;
  Score& score = result.scores.emplace_back();
  score.top_k = used;
  const std::vector<double> shares = expert_shares(coefficients);
  Progress progress("evaluating");
  std::map<int64_t, size_t> reading;  // documents, by the scorer's number
  size_t next = 0, done = 0;
  const auto open_next = [&] {
    const EvaluationDocument& document = documents[next];
    score.documents.push_back({.id = document.id, .expert_weights = shares});
    const auto length = std::min({static_cast<int64_t>(document.ids.size()), limit + 1, experts.max_length()});
    if (length >= 2) {
      std::vector<int32_t> ids(document.ids.begin(), document.ids.begin() + length);
      reading[scorer.add(std::move(ids), /*top=*/0, std::nullopt)] = next;
      result.tokens_read += used * length;
    } else {
      ++done;
    }
    ++next;
  };
  while (done < documents.size()) {
    stop_if_requested("the evaluation");
    while (next < documents.size() && reading.size() < kDocumentsAtOnce) open_next();
    if (reading.empty()) continue;
    for (const int64_t number : scorer.step(kRowsAtOnce)) {
      DocumentScore& document = score.documents[reading.at(number)];
      for (const TokenScore& token : scorer.remove(number).tokens) {
        document.negative_log_likelihood -= static_cast<double>(token.log_probability);
        ++document.tokens;
      }
      reading.erase(number);
      ++done;
    }
    progress.update(format_count(static_cast<long long>(done)) + " of " +
                    format_count(static_cast<long long>(documents.size())) + " documents");
  }
  for (const DocumentScore& document : score.documents) {
    score.negative_log_likelihood += document.negative_log_likelihood;
    score.tokens += document.tokens;
  }
  if (score.tokens == 0) fail("no document has a second token, so there is nothing to score");
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace cbtm
