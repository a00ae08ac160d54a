#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "cbtm/corpus/corpus.h"
#include "cbtm/tokenizer/tokenizer.h"

namespace cbtm {

/// The first tokens of documents, one after another.
struct Prefixes {
  std::vector<int32_t> ids;
  std::vector<int64_t> offsets = {0};

  int64_t count() const { return static_cast<int64_t>(offsets.size()) - 1; }
  std::span<const int32_t> of(int64_t document) const {
    const auto at = static_cast<size_t>(document);
    return std::span(ids).subspan(static_cast<size_t>(offsets[at]), static_cast<size_t>(offsets[at + 1] - offsets[at]));
  }
  void add(std::span<const int32_t> prefix);
};

/// Reads the corpus once and calls `batch` with the first `tokens` tokens of each document that `wanted` takes, batch
/// by batch, in the order of reading. Special strings are ordinary text, as in the shards.
void read_prefixes(const CorpusOptions& corpus, const CorpusDigest& counted, const Tokenizer& tokenizer, int64_t tokens,
                   const std::string& stage, const std::function<bool(const Document&)>& wanted,
                   const std::function<void(const Prefixes&)>& batch);

}  // namespace cbtm
