#pragma once

#include "tests/operators/operator_case.h"

namespace cbtm {

// The cases of each operator, one file each. `..._cases()` gives small ones of odd sizes, to be checked, and large ones
// of OPT-125m's sizes, to be timed.

CaseList linear_forward_cases();
CaseList linear_backward_cases();
CaseList attention_cases();
CaseList attention_cached_cases();
CaseList embedding_cases();
CaseList gather_cases();
CaseList layernorm_cases();
CaseList output_loss_cases();
CaseList mixture_cases();
CaseList moe_routing_cases();
CaseList moe_rows_cases();
CaseList moe_linear_cases();
CaseList sampling_cases();
CaseList optimizer_cases();
CaseList sparse_cases();
CaseList gram_cases();
CaseList distance_cases();
CaseList price_cases();
CaseList kmeans_cases();

/// All of them.
CaseList operator_cases();

/// OPT-125m, and the rows of a micro-batch in training.
inline constexpr int64_t kHidden = 768, kFeedForward = 3072, kVocabSize = 50272, kHeads = 12, kTrainingRows = 1024;

/// The types that models are computed in.
inline constexpr DType kComputedTypes[] = {DType::f32, DType::bf16, DType::f16};

}  // namespace cbtm
