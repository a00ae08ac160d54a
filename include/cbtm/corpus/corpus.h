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
  std::string id;     ///< independent of where the data lies: its `id` field, or relative path and number; valid UTF-8
  std::string text;   ///< valid UTF-8, not empty
  std::string place;  ///< "file" or "file:line", for messages
};

enum class OnBadDocument : uint8_t { skip, fail };

struct CorpusOptions {
  std::vector<std::string> paths;  ///< files, directories (walked in sorted order), or "-" for JSON lines on stdin
  std::string text_field = "text";
  OnBadDocument on_bad_document = OnBadDocument::skip;
  bool keep_duplicates = false;
  double bad_fraction_max = 0.01;  ///< more bad documents (of at least 100) or lost bytes than this is an Error
  int64_t document_bytes_max = int64_t{64} << 20;  ///< a longer line, array element or text file is a bad document
  std::vector<std::filesystem::path> exclude;      ///< files and directories left out where a directory holds them
};

/// What was read, for people and for run.json.
struct CorpusStatistics {
  int64_t documents = 0;  ///< given out
  int64_t text_bytes = 0;
  int64_t duplicates = 0;
  int64_t empty = 0;
  int64_t invalid_utf8 = 0;
  int64_t broken_lines = 0;             ///< not JSON, or without the text field
  int64_t too_long = 0;                 ///< above document_bytes_max
  int64_t truncated_files = 0;          ///< data that ends early, is damaged or cannot be read to its end
  int64_t unread_formats = 0;           ///< files in a format that is not read: bzip2, parquet, ...
  int64_t unreadable = 0;               ///< files and folders that cannot be opened, links that lead nowhere
  std::vector<std::string> bad_places;  ///< the first 20: "file:line: what"

  int64_t lost_files = 0;  ///< not read, or not to their end: the last three kinds
  int64_t lost_bytes = 0;  ///< of them, as they lie on disk; of a file that was cut off only what is there
  std::vector<std::string> lost_places;  ///< the first 20: "file: what"

  int64_t json_texts = 0;       ///< .json files that hold no documents, each read as one text
  std::string json_text_first;  ///< the first of them

  int64_t bad() const {
    return empty + invalid_utf8 + broken_lines + too_long + truncated_files + unread_formats + unreadable;
  }
};
Json corpus_statistics_json(const CorpusStatistics& statistics);
/// Says on stderr how many bad documents of which kind were skipped and where the first was, if there were any, and
/// what else of the reading a person should know.
void warn_of_bad_documents(const CorpusStatistics& statistics);
/// Warns again of files that were lost, by what corpus_statistics_json gave (an older one may lack the keys): for the
/// last lines of a command, which are read when a long one has ended.
void warn_of_lost_files(const Json& corpus_statistics);

/// What a pass over a corpus gave out. Two passes over the same corpus give the same.
struct CorpusDigest {
  int64_t documents = 0;
  uint64_t hash = 0;  ///< over the hashes of all texts, in order
  bool operator==(const CorpusDigest&) const = default;
};

/// Streams the documents of a corpus in a fixed order. Formats: JSON lines, JSON arrays, or the file is a document
/// (docs/formats.md says how they are told apart); each also as gzip or zstd. Memory does not grow with the corpus but
/// for the hashes that find duplicates (11 to 33 bytes for each document; none with keep_duplicates). A document takes
/// at most about four times document_bytes_max while it is read. Throws Error: path missing or unreadable; a bad
/// document under OnBadDocument::fail; too many bad ones or too many bytes lost, at the end; a signal asked to stop.
class CorpusReader {
 public:
  /// `stage`: what a signal stops, for the message.
  explicit CorpusReader(CorpusOptions options, std::string stage = "reading the corpus");
  ~CorpusReader();
  CorpusReader(const CorpusReader&) = delete;

  /// False at the end (where the count of bad documents is checked).
  bool next(Document& document);
  const CorpusStatistics& statistics() const;
  /// Of what was given out so far.
  const CorpusDigest& digest() const;
  /// Bytes read so far and in all, of the files as they lie on disk (0 in all for stdin); for progress.
  int64_t bytes_read() const;
  int64_t bytes_total() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Throws Error if a corpus cannot be read at all: a path is missing, a directory holds nothing, or the corpus is a run
/// directory. Reads no file.
void check_corpus(const CorpusOptions& options);

/// Hash of (relative path, contents) of all files in the order of reading, and of the settings of reading: tells
/// whether a stage's input has changed. Copying or touching files does not change it. `cache`: a file that keeps the
/// hashes of files by their size, times and inode, so that unchanged ones are not read again; "" for none. A damaged
/// cache is ignored, and one that cannot be written is not kept. Throws Error; also when a signal asks to stop.
std::string corpus_fingerprint(const CorpusOptions& options, const std::filesystem::path& cache = {});

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
