#include <chrono>
#include <filesystem>
#include <fstream>
#include <optional>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/scratch_directory.h"
#include "cbtm/cluster/cluster_corpus.h"
#include "cbtm/plan/measured_times.h"
#include "cbtm/run/run_directory.h"

namespace cbtm {
namespace {

/// Documents of a sample for each cluster at least, so that none is empty by chance.
constexpr int64_t kDocumentsPerCluster = 20;

/// No progress of what is only timed.
class QuietWhile {
 public:
  QuietWhile() : before_(quiet()) { set_quiet(true); }
  QuietWhile(const QuietWhile&) = delete;
  QuietWhile& operator=(const QuietWhile&) = delete;
  ~QuietWhile() { set_quiet(before_); }

 private:
  bool before_;
};

template <typename Work>
double seconds_of(const Work& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

CorpusStageTimes time_corpus_stages(Device& device, const CorpusSurvey& survey, const SurveyOptions& options,
                                    const Tokenizer* tokenizer, std::span<const int64_t> ks) {
  CorpusStageTimes times{.documents = static_cast<int64_t>(survey.sample.size())};
  say(fmt::format("timing tokenizer and clusters on {} documents", format_count(times.documents)));
  const ScratchDirectory scratch("plan");
  const QuietWhile quiet;
  CorpusOptions sample;
  sample.paths = {(scratch.path() / "sample.jsonl").string()};
  sample.keep_duplicates = options.corpus.keep_duplicates;
  sample.document_bytes_max = options.corpus.document_bytes_max;
  std::string lines;
  for (const std::string& text : survey.sample) lines += Json{{"text", text}}.dump() + "\n";
  write_file_atomically(sample.paths.front(), lines);

  std::optional<Tokenizer> learnt;
  if (tokenizer == nullptr) {
    CorpusStatistics read;
    times.tokenizer_seconds = seconds_of([&] {
      train_corpus_tokenizer(sample, options.vocab_size, options.min_frequency, survey.text_bytes,
                             scratch.path() / "tokenizer", read);
    });
    learnt = Tokenizer::load(scratch.path() / "tokenizer");
    tokenizer = &*learnt;
  }
  for (const int64_t k : ks) {
    if (times.documents < k * kDocumentsPerCluster) continue;
    ClusterOptions clusters;
    clusters.corpus = sample;
    clusters.clusters = k;
    clusters.seed = options.seed;
    clusters.allow_empty_shards = true;
    const RunDirectory run(scratch.path() / ("run-" + std::to_string(k)));
    std::filesystem::create_directories(run.root());
    times.cluster_seconds[k] = seconds_of([&] { cluster_corpus(device, *tokenizer, clusters, run); });
  }
  return times;
}

}  // namespace cbtm
