#include "cbtm/base/atomic_output.h"
#include "cbtm/base/memory.h"
#include "cbtm/base/progress.h"
#include "cbtm/cluster/cluster_corpus.h"
#include "cbtm/corpus/document_batches.h"
#include "cbtm/tokenizer/trainer.h"

namespace cbtm {

Json train_corpus_tokenizer(const CorpusOptions& corpus, int64_t vocab_size, int64_t min_frequency,
                            int64_t text_bytes_max, const std::filesystem::path& directory,
                            CorpusStatistics& statistics) {
  DocumentBatches batches(corpus, "reading the corpus for the tokenizer");
  TokenizerTrainer trainer;
  Progress progress("tokenizer");
  int64_t bytes = 0;
  bool more = true;
  for (std::vector<Document> documents; more && batches.next(documents);) {
    std::vector<std::string> texts;
    for (Document& document : documents) {
      more = bytes < text_bytes_max;
      if (!more) break;
      bytes += static_cast<int64_t>(document.text.size());
      texts.push_back(std::move(document.text));
    }
    trainer.add(texts);
    progress.update(fmt::format("{} of text read", format_bytes(bytes)));
  }
  statistics = batches.reader().statistics();
  const Tokenizer tokenizer = trainer.train({.vocab_size = vocab_size, .min_frequency = min_frequency});
  AtomicDirectory output(directory);
  tokenizer.save(output.path());
  output.commit();
  progress.finish(
      fmt::format("{} tokens learnt from {} of text", format_count(tokenizer.vocab_size()), format_bytes(bytes)));
  return {{"vocab_size", tokenizer.vocab_size()}, {"text_bytes", bytes}, {"content_hash", tokenizer.content_hash()}};
}

}  // namespace cbtm
