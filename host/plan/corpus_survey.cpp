#include "cbtm/plan/corpus_survey.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/signals.h"
#include "cbtm/base/threads.h"
#include "cbtm/corpus/corpus_file_sizes.h"
#include "cbtm/tokenizer/trainer.h"
#include "plan/text_sample.h"

namespace cbtm {
namespace {

/// A share of a file below this is rounded up to it: a reader takes whole blocks.
constexpr int64_t kFileBytesMin = int64_t{1} << 20;

void read_whole(const SurveyOptions& options, CorpusSurvey& survey, TextSample& sample) {
  CorpusReader reader(options.corpus, "the survey of the corpus");
  Progress progress("survey");
  Document document;
  while (reader.next(document)) {
    sample.add(document.text);
    if (reader.statistics().documents % 1024 == 0)
      progress.update(format_count(reader.statistics().documents) + " documents");
  }
  warn_of_bad_documents(reader.statistics());
  survey.whole = true;
  survey.documents = reader.statistics().documents;
  survey.text_bytes = reader.statistics().text_bytes;
  survey.bytes_read = survey.bytes_on_disk;
}

/// What the beginning of one file says of all of it.
struct FileEstimate {
  double documents = 0, text_bytes = 0;
  int64_t bytes_read = 0;
};

FileEstimate read_beginning(const CorpusOptions& corpus, const CorpusFileSize& file, int64_t bytes,
                            TextSample& sample) {
  CorpusOptions one = corpus;
  one.paths = {file.path};
  one.bad_fraction_max = 1;
  CorpusReader reader(one, "the survey of the corpus");
  FileEstimate estimate;
  // A reader takes a file block by block. When it takes the next one, the documents before it are those of the blocks
  // so far, but for the one that a block cuts.
  try {
    for (Document document;;) {
      const int64_t bytes_before = reader.bytes_read();
      const int64_t documents_before = reader.statistics().documents, text_before = reader.statistics().text_bytes;
      const bool more = reader.next(document);
      if (more) sample.add(document.text);
      if (more && (bytes_before == 0 || reader.bytes_read() == bytes_before)) continue;
      estimate.bytes_read = more ? std::min(bytes_before, file.bytes) : file.bytes;
      const double scale = static_cast<double>(file.bytes) / static_cast<double>(estimate.bytes_read);
      estimate.documents = static_cast<double>(more ? documents_before : reader.statistics().documents) * scale;
      estimate.text_bytes = static_cast<double>(more ? text_before : reader.statistics().text_bytes) * scale;
      if (!more || estimate.bytes_read >= bytes) return estimate;
    }
  } catch (const Error&) {
    if (stop_requested() != 0 || corpus.on_bad_document == OnBadDocument::fail) throw;
    return {};  // a file that holds no document
  }
}

void read_beginnings(const SurveyOptions& options, const std::vector<CorpusFileSize>& files, CorpusSurvey& survey,
                     TextSample& sample) {
  const double share = static_cast<double>(options.read_bytes_max) / static_cast<double>(survey.bytes_on_disk);
  // Of very many files, each of which takes at least its first block, every so-many-th.
  const auto affordable = static_cast<size_t>(std::max<int64_t>(1, options.read_bytes_max / kFileBytesMin));
  const size_t stride = (files.size() + affordable - 1) / affordable;
  double documents = 0, text_bytes = 0, bytes_seen = 0;
  Progress progress("survey");
  for (size_t i = 0; i < files.size(); i += stride) {
    const auto bytes = static_cast<int64_t>(static_cast<double>(files[i].bytes) * share * static_cast<double>(stride));
    const FileEstimate file = read_beginning(options.corpus, files[i], std::max(bytes, kFileBytesMin), sample);
    documents += file.documents;
    text_bytes += file.text_bytes;
    bytes_seen += static_cast<double>(files[i].bytes);
    survey.bytes_read += file.bytes_read;
    progress.update(std::to_string(i + 1) + " of " + std::to_string(files.size()) + " files");
  }
  const double rest = bytes_seen > 0 ? static_cast<double>(survey.bytes_on_disk) / bytes_seen : 0;
  survey.documents = std::llround(documents * rest);
  survey.text_bytes = std::llround(text_bytes * rest);
  if (survey.documents == 0)
    fail("{}: the beginnings of its files hold no usable document; is this the right corpus and --text-field?",
         options.corpus.paths.front());
}

/// Tokens of each text, with its end token.
std::vector<int64_t> lengths_of(const Tokenizer& tokenizer, const std::vector<std::string>& texts) {
  std::vector<int64_t> lengths(texts.size());
  parallel_ranges(static_cast<int64_t>(texts.size()), 1e5, [&](int64_t begin, int64_t end) {
    Encoder encoder(tokenizer);
    std::vector<int32_t> ids;
    for (int64_t i = begin; i < end; ++i) {
      ids.clear();
      encoder.encode(texts[static_cast<size_t>(i)], {}, ids);
      lengths[static_cast<size_t>(i)] = static_cast<int64_t>(ids.size()) + 1;
    }
  });
  return lengths;
}

/// The ratio estimator of tokens by bytes, and its standard error: sqrt(n / (n - 1) Σ (t_i - r b_i)²) B / Σ b_i.
void estimate_tokens(const std::vector<std::string>& texts, bool all, CorpusSurvey& survey) {
  double tokens = 0, bytes = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    tokens += static_cast<double>(survey.sample_lengths[i]);
    bytes += static_cast<double>(texts[i].size());
  }
  const double ratio = tokens / bytes;
  survey.encoded_documents = static_cast<int64_t>(texts.size());
  survey.tokens = all ? tokens : ratio * static_cast<double>(survey.text_bytes);
  if (all || texts.size() < 2) return;
  double squares = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    const double residual =
        static_cast<double>(survey.sample_lengths[i]) - ratio * static_cast<double>(texts[i].size());
    squares += residual * residual;
  }
  const auto count = static_cast<double>(texts.size());
  survey.tokens_error = std::sqrt(count / (count - 1) * squares) * static_cast<double>(survey.text_bytes) / bytes;
}

}  // namespace

double CorpusSurvey::share_within(int64_t length) const {
  double within = 0, all = 0;
  for (const int64_t tokens : sample_lengths) {
    within += static_cast<double>(std::min(tokens, length));
    all += static_cast<double>(tokens);
  }
  return all > 0 ? within / all : 1;
}

CorpusSurvey survey_corpus(const SurveyOptions& options, const Tokenizer* tokenizer) {
  CorpusSurvey survey;
  const std::vector<CorpusFileSize> files = corpus_file_sizes(options.corpus);
  for (const CorpusFileSize& file : files) survey.bytes_on_disk += file.bytes;
  TextSample sample(options.encode_bytes_max, options.seed);
  if (survey.bytes_on_disk <= options.read_bytes_max)
    read_whole(options, survey, sample);
  else
    read_beginnings(options, files, survey, sample);
  const bool all = survey.whole && sample.whole() && tokenizer != nullptr;
  survey.sample = sample.take();
  if (tokenizer != nullptr) {
    survey.sample_lengths = lengths_of(*tokenizer, survey.sample);
    survey.vocab_size = tokenizer->vocab_size();
    estimate_tokens(survey.sample, all, survey);
    return survey;
  }
  // What a tokenizer was learnt from it cuts into fewer tokens than other text.
  std::vector<std::string> learnt_from, counted;
  for (size_t i = 0; i < survey.sample.size(); ++i) (i % 2 == 0 ? counted : learnt_from).push_back(survey.sample[i]);
  TokenizerTrainer trainer;
  trainer.add(learnt_from.empty() ? counted : learnt_from);
  const Tokenizer learnt = trainer.train({.vocab_size = options.vocab_size, .min_frequency = options.min_frequency});
  survey.tokenizer_learnt = true;
  survey.vocab_size = learnt.vocab_size();
  survey.sample_lengths = lengths_of(learnt, counted);
  estimate_tokens(counted, /*all=*/false, survey);
  return survey;
}

Json corpus_survey_json(const CorpusSurvey& survey) {
  return {{"counted", survey.whole},
          {"bytes_on_disk", survey.bytes_on_disk},
          {"bytes_read", survey.bytes_read},
          {"documents", survey.documents},
          {"text_bytes", survey.text_bytes},
          {"tokens", survey.tokens},
          {"tokens_standard_error", survey.tokens_error},
          {"encoded_documents", survey.encoded_documents},
          {"tokenizer_learnt", survey.tokenizer_learnt}};
}

}  // namespace cbtm
