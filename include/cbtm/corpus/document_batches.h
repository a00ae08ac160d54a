#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cbtm/corpus/corpus.h"

namespace cbtm {

/// One pass over a corpus in batches that are bounded by their count and by their bytes: at most kDocumentsMax
/// documents, and none is added to a batch that holds kBytesMax of text.
class DocumentBatches {
 public:
  static constexpr size_t kDocumentsMax = 1024;
  static constexpr size_t kBytesMax = size_t{8} << 20;

  /// `stage`: what a signal stops, for the message. `expected`: what an earlier pass gave out; if this one gives out
  /// something else, next() throws Error ("the corpus changed while it was read"), at the latest at the end, and before
  /// it gives out more documents than were expected.
  DocumentBatches(CorpusOptions options, std::string stage, std::optional<CorpusDigest> expected = std::nullopt)
      : reader_(std::move(options), std::move(stage)), expected_(expected) {}

  /// Replaces `batch` by the next documents; false at the end.
  bool next(std::vector<Document>& batch);
  const CorpusReader& reader() const { return reader_; }

 private:
  CorpusReader reader_;
  std::optional<CorpusDigest> expected_;
};

}  // namespace cbtm
