#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "cbtm/model/inference.h"

namespace cbtm {

struct Sequences {
  std::vector<int32_t> ids;
  std::vector<int32_t> offsets = {0};
  PackedTokens packed() const { return {ids, offsets}; }
  void add(std::span<const int32_t> sequence) {
    ids.insert(ids.end(), sequence.begin(), sequence.end());
    offsets.push_back(static_cast<int32_t>(ids.size()));
  }
};

inline std::vector<float> logits_of(InferenceModel& model, const PackedTokens& tokens) {
  std::vector<float> out(static_cast<size_t>(tokens.rows() * model.vocab_size()));
  model.logits(tokens, out);
  return out;
}

/// Greedy continuation with the key-value cache; prompts fed in pieces of `piece` tokens.
inline std::vector<std::vector<int32_t>> continue_greedily(InferenceModel& model,
                                                           const std::vector<std::vector<int32_t>>& prompts,
                                                           size_t length, size_t piece) {
  std::vector<int64_t> handles;
  std::vector<std::vector<int32_t>> out(prompts.size());
  std::vector<std::vector<float>> next(prompts.size(), std::vector<float>(static_cast<size_t>(model.vocab_size())));
  for (size_t p = 0; p < prompts.size(); ++p) {
    handles.push_back(model.open_sequence());
    for (size_t begin = 0; begin < prompts[p].size(); begin += piece) {
      Sequences part;
      part.add(std::span(prompts[p]).subspan(begin, std::min(piece, prompts[p].size() - begin)));
      model.extend(std::span(&handles.back(), 1), part.packed(), next[p]);
    }
  }
  for (size_t step = 0; step < length; ++step) {
    Sequences batch;
    for (size_t p = 0; p < prompts.size(); ++p) {
      out[p].push_back(static_cast<int32_t>(std::max_element(next[p].begin(), next[p].end()) - next[p].begin()));
      batch.add(std::span(&out[p].back(), 1));
    }
    std::vector<float> logits(prompts.size() * static_cast<size_t>(model.vocab_size()));
    model.extend(handles, batch.packed(), logits);
    for (size_t p = 0; p < prompts.size(); ++p)
      std::copy_n(logits.begin() + static_cast<int64_t>(p * next[p].size()), next[p].size(), next[p].begin());
  }
  for (const int64_t handle : handles) model.close_sequence(handle);
  return out;
}

}  // namespace cbtm
