#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cbtm/ensemble/evaluate.h"
#include "cbtm/ensemble/expert_pool.h"

namespace cbtm {

/// The perplexity of experts that are mixed by coefficients: p(token) is in proportion to the product of the experts'
/// probabilities to these powers (docs/method.md, 'Coefficients'). Nothing is routed, and every expert whose
/// coefficient is not 0 reads every document. The one score has top_k = the number of these experts, and as expert
/// weights their shares. `coefficients`: by cluster, of experts that are present, not only zeros. `length_max` is as in
/// EvaluationOptions, but a document has at most as many tokens as the models have positions, its last one included.
Evaluation evaluate_coefficients(const std::shared_ptr<ExpertPool>& pool,
                                 const std::vector<EvaluationDocument>& documents,
                                 const std::vector<double>& coefficients, int64_t length_max);

}  // namespace cbtm
