#include "commands/stages.h"

#include <fmt/format.h>

#include <chrono>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/hash.h"
#include "cbtm/base/progress.h"
#include "cbtm/tokenizer/tokenizer.h"
#include "cbtm/train/run_training.h"

namespace cbtm {
namespace {

constexpr const char* kCorpusHashes = "corpus-hashes.json";  // of each file, so that only changed ones are read again

}  // namespace

namespace {

/// stage_is_due where it is known that a result is there.
bool differs(const RunDirectory& run, const std::string& name, const std::string& difference, bool redo,
             const std::filesystem::path& result) {
  if (difference.empty()) {
    say(fmt::format("{}: done already, in {}", name, result.string()));
    return false;
  }
  if (!redo)
    fail("{}: the stage '{}' was made from something else ({}); pass --redo to make it again, or another --run",
         run.root().string(), name, difference);
  return true;
}

}  // namespace

bool stage_is_due(const RunDirectory& run, const StageRecord& wanted, const std::filesystem::path& result, bool redo) {
  recover_directory(result);
  if (!std::filesystem::exists(result)) return true;
  std::string difference;
  if (stage_state(run, wanted, difference) == StageState::missing) return true;
  return differs(run, wanted.name, difference, redo, result);
}

FileLock lock_clusters(const RunDirectory& run) {
  FileLock lock(run.clusters_lock(), FileLock::Wait::no);
  if (!lock.held())
    fail("{}: another process is making or using its shards; wait for its end, or name another --run",
         run.root().string());
  return lock;
}

void run_tokenizer_stage(const RunDirectory& run, const CommandLine& line, const CorpusOptions& corpus, bool redo) {
  constexpr int64_t kTextBytesMax = 256 << 20;
  recover_directory(run.tokenizer());
  Json present;  // of the tokenizer that lies there; one that cannot be read is made again
  try {
    if (std::filesystem::exists(run.tokenizer())) present = Tokenizer::load(run.tokenizer()).content_hash();
  } catch (const Error& error) {
    warn(fmt::format("{}; it is made again", error.what()));
    present = "damaged";
  }
  StageRecord record{.name = "tokenizer",
                     .settings = Json::object(),
                     .inputs = Json::object(),
                     .command = line.as_typed(),
                     .result = present};
  if (line.given("tokenizer")) {
    const Tokenizer given = Tokenizer::load(line.path("tokenizer"));
    record.inputs["tokenizer"] = given.content_hash();
    if (!stage_is_due(run, record, run.tokenizer(), redo)) return;
    check_replaceable(run.tokenizer());
    AtomicDirectory output(run.tokenizer());
    given.save(output.path());
    output.commit();
    record.result = given.content_hash();
  } else {
    record.settings = {{"vocab_size", line.integer("vocab-size", 260, 1 << 24)},
                       {"min_frequency", line.integer("min-frequency", 0)}};
    record.inputs["corpus"] = corpus_fingerprint(corpus, run.root() / kCorpusHashes);
    if (!stage_is_due(run, record, run.tokenizer(), redo)) return;
    check_replaceable(run.tokenizer());
    const auto start = std::chrono::steady_clock::now();
    CorpusStatistics read;  // clustering reads the same again and says what is bad
    record.summary = train_corpus_tokenizer(corpus, record.settings["vocab_size"], record.settings["min_frequency"],
                                            kTextBytesMax, run.tokenizer(), read);
    record.result = record.summary["content_hash"];
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
  const std::filesystem::path result = run.shards_clusters_json();
  if (std::filesystem::exists(result)) {
    // What they were made from stands in the set itself, which appeared whole; run.json is brought up to date from it.
    Json clusters;
    try {
      clusters = read_clusters(run);
    } catch (const Error&) {
      if (!redo) throw;
    }
    const auto object = [&](const char* key) {
      return clusters.is_object() && clusters.contains(key) && clusters[key].is_object() ? clusters[key]
                                                                                         : Json::object();
    };
    const std::string difference =
        clusters.is_null() ? "it is damaged" : stage_difference(object("settings"), object("inputs"), record);
    if (!differs(run, record.name, difference, redo, run.shards())) {
      record.result = hash_file_hex(result);
      std::string ignored;
      if (stage_state(run, record, ignored) != StageState::current) {
        if (clusters.contains("command") && clusters["command"].is_string()) record.command = clusters["command"];
        record_stage(run, record);
        say("cluster: its record in run.json is made again from clusters.json");
      }
      return clusters;
    }
  }
  for (const std::filesystem::path& output : {run.shards(), run.router()}) check_replaceable(output);
  const auto start = std::chrono::steady_clock::now();
  const Json clusters =
      cluster_corpus(device, tokenizer, options, run,
                     {{"settings", record.settings}, {"inputs", record.inputs}, {"command", record.command}});
  record.result = hash_file_hex(result);
  record.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  record_stage(run, record);
  return clusters;
}

void refuse_empty_shards(const RunDirectory& run, const Json& clusters) {
  if (const std::string empty = empty_shards(clusters["sizes"]); !empty.empty())
    fail("{}: {}", run.clusters_json().string(), empty);
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
