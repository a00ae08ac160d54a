#include "cbtm/run/evaluation_result.h"

#include "cbtm/ensemble/evaluate.h"

namespace cbtm {

EvaluationResult evaluation_result(const Evaluation& evaluation, const Json& settings, const Json& documents) {
  const Score& scored = evaluation.scores.front();
  EvaluationResult result{.perplexity = scored.perplexity(),
                          .negative_log_likelihood = scored.negative_log_likelihood,
                          .tokens = scored.tokens,
                          .seconds = evaluation.seconds,
                          .tokens_read = evaluation.tokens_read,
                          .matrix = evaluation.matrix};
  for (const DocumentScore& document : scored.documents)
    result.documents.push_back(
        {document.id, document.tokens, document.negative_log_likelihood, document.expert_weights});
  if (evaluation.scores.size() > 1 || !scored.router.empty())
    for (const Score& score : evaluation.scores) {
      SweepResult entry{score.router, score.top_k, score.perplexity(), score.negative_log_likelihood, score.tokens, {}};
      if (!score.router.empty())
        for (const DocumentScore& document : score.documents)
          entry.document_losses.push_back(document.negative_log_likelihood);
      result.sweep.push_back(std::move(entry));
    }
  Json all = settings;
  all["documents"] = documents;
  result.settings = parse_evaluation_settings(all, "the settings of an evaluation");
  return result;
}

}  // namespace cbtm
