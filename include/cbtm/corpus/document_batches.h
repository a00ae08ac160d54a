#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cbtm/corpus/corpus.h"

namespace cbtm {

/// One pass over a corpus in batches. A batch has at most kDocumentsMax documents, and no document is added once it
/// holds kBytesMax of text.
class DocumentBatches {
 public:
  static constexpr size_t kDocumentsMax = 1024;
  static constexpr size_t kBytesMax = size_t{8} << 20;

  /// `stage` is named in the message when a signal stops the reading. `expected` is the digest of an earlier pass. If
  /// this pass returns something else, next() throws Error ("the corpus changed while it was read"), at the latest at
  /// the end. It never returns more documents than were expected.
  DocumentBatches(CorpusOptions options, std::string stage, std::optional<CorpusDigest> expected = std::nullopt)
      : reader_(std::move(options), std::move(stage)), expected_(expected) {}

  /// Replaces `batch` by the next documents. False at the end.
  bool next(std::vector<Document>& batch);
  const CorpusReader& reader() const { return reader_; }

 private:
  CorpusReader reader_;
  std::optional<CorpusDigest> expected_;
};

}  // namespace cbtm
