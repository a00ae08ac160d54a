#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cbtm/base/error.h"
#include "cbtm/base/json.h"

namespace cbtm {

// Above what any published model has; the sizes of all tensors stay far within 64 bits.
inline constexpr int64_t kVocabularyMax = 1 << 24, kHiddenMax = 1 << 18, kFeedForwardMax = 1 << 20, kLayersMax = 4096,
                         kPositionsMax = 1 << 24;

/// eos_token_id: one id, or a list of them.
inline std::vector<int64_t> end_tokens(const JsonReader& read, std::vector<int64_t> otherwise) {
  constexpr const char* kKey = "eos_token_id";
  if (!read.has(kKey)) return otherwise;
  return read.json()[kKey].is_array() ? read.integers(kKey) : std::vector<int64_t>{read.integer(kKey)};
}

/// The value to write as eos_token_id; null without any.
inline Json end_tokens_json(const std::vector<int64_t>& ids) {
  if (ids.empty()) return nullptr;
  return ids.size() == 1 ? Json(ids.front()) : Json(ids);
}

}  // namespace cbtm
