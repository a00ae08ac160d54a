// A corpus of several files: JSON lines, plain text, compressed ones and others; read whole.

#include "cbtm/corpus/corpus.h"

#include "tests/fuzz/input_files.h"
#include "tests/fuzz/repair.h"
#include "tests/fuzz/target.h"

namespace cbtm::fuzz {
namespace {

void read_all(const CorpusOptions& options) {
  CorpusReader reader(options);
  for (Document document; reader.next(document);) {
  }
  corpus_statistics_json(reader.statistics()).dump();
}

void read(std::string_view input) {
  const InputFiles files(input, {"a.jsonl", "b.txt", "c.jsonl.gz", "d.jsonl.zst", "e.txt.gz", "f", "g/h.json"});
  CorpusOptions options{.paths = {files.path().string()}, .bad_fraction_max = 1};
  corpus_fingerprint(options);
  read_all(options);
  options.on_bad_document = OnBadDocument::fail;
  options.keep_duplicates = true;
  read_all(options);
}

const Registration kRegistration{{"corpus", read, repair_parts}};

}  // namespace
}  // namespace cbtm::fuzz
