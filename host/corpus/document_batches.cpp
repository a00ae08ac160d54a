#include "cbtm/corpus/document_batches.h"

#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"

namespace cbtm {
namespace {

[[noreturn]] void fail_changed(const CorpusDigest& expected, const CorpusDigest& now, bool at_end) {
  const std::string difference = expected.documents == now.documents
                                     ? "other texts than before"
                                     : fmt::format("{} documents before, {} now{}", format_count(expected.documents),
                                                   format_count(now.documents), at_end ? "" : " and more");
  fail("the corpus changed while it was read ({}); start again when nothing writes to it", difference);
}

}  // namespace

bool DocumentBatches::next(std::vector<Document>& batch) {
  batch.clear();
  size_t bytes = 0;
  Document document;
  while (batch.size() < kDocumentsMax && bytes < kBytesMax) {
    if (!reader_.next(document)) {
      if (expected_ && reader_.digest() != *expected_) fail_changed(*expected_, reader_.digest(), true);
      break;
    }
    if (expected_ && reader_.digest().documents > expected_->documents)
      fail_changed(*expected_, reader_.digest(), false);
    bytes += document.text.size();
    batch.push_back(std::move(document));
  }
  return !batch.empty();
}

}  // namespace cbtm
