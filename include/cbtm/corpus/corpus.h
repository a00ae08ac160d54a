#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cbtm/base/json.h"

namespace cbtm {

struct Document {
  std::string id;     ///< independent of where the data lies: its `id` field, or relative path and number
  std::string text;   ///< valid UTF-8, not empty
  std::string place;  ///< "file" or "file:line", for messages
};

enum class OnBadDocument : uint8_t { skip, fail };

struct CorpusOptions {
  std::vector<std::string> paths;  ///< files, directories (walked in sorted order), or "-" for JSON lines on stdin
  std::string text_field = "text";
  OnBadDocument on_bad_document = OnBadDocument::skip;
  bool keep_duplicates = false;
  double bad_fraction_max = 0.01;  ///< more bad documents than this (of at least 100) is an Error
};

/// What was read, for people and for run.json.
struct CorpusStatistics {
  int64_t documents = 0;  ///< given out
  int64_t text_bytes = 0;
  int64_t duplicates = 0;
  int64_t empty = 0;
  int64_t invalid_utf8 = 0;
  int64_t broken_lines = 0;             ///< not JSON, or without the text field
  int64_t truncated_files = 0;          ///< compressed data that ends early or is damaged
  std::vector<std::string> bad_places;  ///< the first 20: "file:line: what"

  int64_t bad() const { return empty + invalid_utf8 + broken_lines + truncated_files; }
};
Json corpus_statistics_json(const CorpusStatistics& statistics);
/// Says on stderr how many bad documents of which kind were skipped and where the first was, if there were any.
void warn_of_bad_documents(const CorpusStatistics& statistics);

/// Streams the documents of a corpus in a fixed order; memory does not grow with the corpus but for 8 bytes a document
/// (hashes, for duplicates). Formats: JSON lines (.jsonl, .json, .ndjson), else a file is a document; each also .gz or
/// .zst. Throws Error: path missing or unreadable; a bad document under OnBadDocument::fail; too many bad ones at the
/// end.
class CorpusReader {
 public:
  explicit CorpusReader(CorpusOptions options);
  ~CorpusReader();
  CorpusReader(const CorpusReader&) = delete;

  /// False at the end (where the count of bad documents is checked).
  bool next(Document& document);
  const CorpusStatistics& statistics() const;
  /// Bytes read so far and in all, of the files as they lie on disk (0 in all for stdin); for progress.
  int64_t bytes_read() const;
  int64_t bytes_total() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Hash of (sorted relative path, size, modification time) of all files: tells whether a stage's input has changed.
std::string corpus_fingerprint(const CorpusOptions& options);

/// The side of a document. Shards hold all three, as train / valid / tune .bin and .idx:
///   train  what models are trained on (and what the router is fitted on)
///   valid  the test set: every reported perplexity comes from it, nothing is ever chosen by it
///   tune   held out too, for choosing settings (router temperature, learning rate); never reported
enum class Split : uint8_t { train, valid, tune };

/// Split by a hash of the document's text, so that a document stays on its side when files are added or moved:
/// u = hash64(text, seed) / 2^64 is uniform; valid if u < valid_fraction, tune if u >= 1 - tune_fraction, else train.
struct HeldOutSplit {
  double valid_fraction = 0.01;
  double tune_fraction = 0.01;

  /// For a corpus of `documents`: the wanted fraction, for each of valid and tune, raised so that about `minimum`
  /// documents are held out in each (but at most a quarter of the corpus each).
  static HeldOutSplit for_corpus(int64_t documents, double valid_fraction, int64_t minimum = 50);
  Split side(std::string_view text) const;
};

}  // namespace cbtm
