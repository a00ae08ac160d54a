#include "commands/stages.h"

#include <fmt/format.h>

#include <chrono>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"
#include "cbtm/cluster/router.h"
#include "cbtm/tokenizer/tokenizer.h"
#include "cbtm/train/run_training.h"

namespace cbtm {
namespace {

constexpr const char* kCorpusHashes = "corpus-hashes.json";  // of each file, so that only changed ones are read again

}  // namespace

bool stage_is_due(const RunDirectory& run, const StageRecord& wanted, const std::filesystem::path& result, bool redo) {
  recover_directory(result);
  if (!std::filesystem::exists(result)) return true;
  std::string difference;
  switch (stage_state(run, wanted, difference)) {
    case StageState::missing: return true;
    case StageState::current: say(fmt::format("{}: done already, in {}", wanted.name, result.string())); return false;
    case StageState::changed:
      if (!redo)
        fail("{}: the stage '{}' was made from something else ({}); pass --redo to make it again, or another --out",
             run.root().string(), wanted.name, difference);
      return true;
  }
  return true;
}

void run_tokenizer_stage(const RunDirectory& run, const CommandLine& line, const CorpusOptions& corpus, bool redo) {
  constexpr int64_t kTextBytesMax = 256 << 20;
  StageRecord record{
      .name = "tokenizer", .settings = Json::object(), .inputs = Json::object(), .command = line.as_typed()};
  if (line.given("tokenizer")) {
    const Tokenizer given = Tokenizer::load(line.path("tokenizer"));
    record.inputs["tokenizer"] = given.content_hash();
    if (!stage_is_due(run, record, run.tokenizer(), redo)) return;
    AtomicDirectory output(run.tokenizer());
    given.save(output.path());
    output.commit();
  } else {
    record.settings = {{"vocab_size", line.integer("vocab-size", 260, 1 << 24)},
                       {"min_frequency", line.integer("min-frequency", 0)}};
    record.inputs["corpus"] = corpus_fingerprint(corpus, run.root() / kCorpusHashes);
    if (!stage_is_due(run, record, run.tokenizer(), redo)) return;
    const auto start = std::chrono::steady_clock::now();
    CorpusStatistics read;  // clustering reads the same again and says what is bad
    record.summary = train_corpus_tokenizer(corpus, record.settings["vocab_size"], record.settings["min_frequency"],
                                            kTextBytesMax, run.tokenizer(), read);
    record.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  record_stage(run, record);
}

Json run_cluster_stage(Device& device, const RunDirectory& run, const CommandLine& line, const ClusterOptions& options,
                       bool redo) {
  const Tokenizer tokenizer = Tokenizer::load(run.tokenizer());
  StageRecord record{.name = "cluster",
                     .settings = cluster_settings(options),
                     .inputs = {{"corpus", corpus_fingerprint(options.corpus, run.root() / kCorpusHashes)},
                                {"tokenizer", tokenizer.content_hash()}},
                     .command = line.as_typed()};
  recover_directory(run.shards());
  if (std::filesystem::exists(run.shards()) && !stage_is_due(run, record, run.clusters_json(), redo))
    return read_clusters(run);
  const auto start = std::chrono::steady_clock::now();
  const Json clusters = cluster_corpus(device, tokenizer, options, run);
  record.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  record_stage(run, record);
  return clusters;
}

void print_clusters(const Json& clusters) {
  fmt::print("{:>7} {:>10} {:>12} {:>7} {:>6}  top terms\n", "cluster", "documents", "tokens", "valid", "tune");
  for (size_t j = 0; j < clusters["sizes"].size(); ++j) {
    const Json& size = clusters["sizes"][j];
    std::string terms;
    for (const Json& term : clusters["top_terms"][j]) terms += (terms.empty() ? "" : " ") + term.get<std::string>();
    fmt::print("{:>7} {:>10} {:>12} {:>7} {:>6}  {}\n", RunDirectory::cluster_name(static_cast<int64_t>(j)),
               format_count(size["train_documents"].get<int64_t>()), format_count(size["train_tokens"].get<int64_t>()),
               size["valid_documents"].get<int64_t>(), size["tune_documents"].get<int64_t>(), terms);
  }
  fmt::print(
      "largest shard {:.2f} times the mean, in tokens; objective {:.1f}, duality gap {:.1e}; {} documents without "
      "words\n",
      clusters["balance"].get<double>(), clusters["objective"].get<double>(), clusters["duality_gap"].get<double>(),
      clusters["documents_without_words"].get<int64_t>());
}

}  // namespace cbtm
