#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cbtm/base/json.h"
#include "cbtm/corpus/corpus.h"
#include "cbtm/tokenizer/tokenizer.h"

namespace cbtm {

struct SurveyOptions {
  CorpusOptions corpus;
  /// Read at most about so many bytes, as the files lie on disk. A larger corpus is sampled: the beginning of each
  /// file, in proportion to the files' sizes.
  int64_t read_bytes_max = int64_t{256} << 20;
  /// Encode at most about so many bytes of text: documents drawn by hash.
  int64_t encode_bytes_max = int64_t{8} << 20;
  // If no tokenizer is given one is learnt from half of the drawn documents, and the other half is counted.
  int64_t vocab_size = 32'768;
  int64_t min_frequency = 2;
  uint64_t seed = 1234;
};

/// How large a corpus is, and how exactly that is known (docs/accounting.md, 'The corpus').
struct CorpusSurvey {
  bool whole = false;         ///< all of it was read: documents and text_bytes are counted, else estimated
  int64_t bytes_on_disk = 0;  ///< 0 of a stream
  int64_t bytes_read = 0;     ///< of those
  int64_t documents = 0;
  int64_t text_bytes = 0;
  int64_t encoded_documents = 0;        ///< that the number of tokens comes from
  double tokens = 0;                    ///< with one end token per document
  double tokens_error = 0;              ///< standard error of the encoded sample alone; 0: every document was encoded
  bool tokenizer_learnt = false;        ///< from the sample: no tokenizer was given
  int64_t vocab_size = 0;               ///< of the tokenizer that counted
  std::vector<std::string> sample;      ///< texts that were drawn by hash
  std::vector<int64_t> sample_lengths;  ///< tokens of the encoded documents

  /// The fraction of all tokens that is read when documents are cut at `length` tokens.
  double share_within(int64_t length) const;
};

/// Reads the corpus, or a sample of it. Throws Error as CorpusReader does, and if nothing can be read.
CorpusSurvey survey_corpus(const SurveyOptions& options, const Tokenizer* tokenizer);
Json corpus_survey_json(const CorpusSurvey& survey);

}  // namespace cbtm
