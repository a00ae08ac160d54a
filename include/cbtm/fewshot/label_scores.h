#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cbtm/fewshot/task.h"
#include "cbtm/model/inference.h"
#include "cbtm/tokenizer/tokenizer.h"

namespace cbtm {

/// The fixed texts of a task as ids.
struct LabelTokens {
  std::vector<std::vector<int32_t>> labels;  ///< each with a space in front
  std::vector<int32_t> suffix;
  int64_t max_length = 0;  ///< tokens of a context and a label at most
};

/// Throws Error if the suffix has no token, if a label leaves no room for a context, or if the models have fewer
/// positions than the task's max_length (`positions`).
LabelTokens label_tokens(const FewShotTask& task, const Tokenizer& tokenizer, int64_t positions);

/// ln p of every token of every label: [labels][tokens of the label].
using LabelLogProbabilities = std::vector<std::vector<double>>;

/// The same after each of these contexts, of at least one token. A context keeps its last tokens: as many as leave room
/// for the label within max_length. What several labels share is read once: labels of one token read nothing but the
/// context, and a label that begins another one is read with it. Throws Error if a result is not a number.
std::vector<LabelLogProbabilities> score_labels(InferenceModel& model, std::span<const std::vector<int32_t>> contexts,
                                                const LabelTokens& tokens);

}  // namespace cbtm
