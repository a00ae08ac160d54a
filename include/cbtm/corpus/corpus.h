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
  std::string id;  ///< its `id` field, or relative path and number; does not depend on where the data lies; valid UTF-8
  std::string text;    ///< valid UTF-8, not empty
  std::string place;   ///< where it was read: "file" or "file:line", for messages
  std::string domain;  ///< see DomainSource; not empty if domains are asked for, and at most kDomainBytesMax long
};

enum class OnBadDocument : uint8_t { skip, fail };

/// Where the name of a document's domain comes from. A document without one is a bad document.
enum class DomainSource : uint8_t {
  none,      ///< domains are not asked for
  field,     ///< a field of its JSON object: a string or a number
  directory  ///< the first directory below the corpus path that it was found in
};
inline constexpr size_t kDomainBytesMax = 256;

struct CorpusOptions {
  std::vector<std::string> paths;  ///< files, directories (walked in sorted order), or "-" for JSON lines on stdin
  std::string text_field = "text";
  DomainSource domain_source = DomainSource::none;
  std::string domain_field;  ///< for DomainSource::field
  OnBadDocument on_bad_document = OnBadDocument::skip;
  bool keep_duplicates = false;
  double bad_fraction_max = 0.01;  ///< more bad documents (of at least 100) or lost bytes than this is an Error
  int64_t document_bytes_max = int64_t{64} << 20;  ///< a longer line, array element or text file is a bad document
  std::vector<std::filesystem::path> exclude;      ///< files and directories that are left out of a directory
};

/// Counts of what was read, for people and for run.json.
struct CorpusStatistics {
  int64_t documents = 0;  ///< given out
  int64_t text_bytes = 0;
  int64_t duplicates = 0;
  int64_t empty = 0;
  int64_t invalid_utf8 = 0;
  int64_t broken_lines = 0;             ///< not JSON, or without the text field, or without a domain that is asked for
  int64_t too_long = 0;                 ///< above document_bytes_max
  int64_t truncated_files = 0;          ///< files that end early, are damaged or cannot be read to their end
  int64_t unread_formats = 0;           ///< files in a format that is not read: bzip2, parquet, ...
  int64_t unreadable = 0;               ///< files and folders that cannot be opened, links that lead nowhere
  std::vector<std::string> bad_places;  ///< the first 20: "file:line: what"

  int64_t lost_files = 0;  ///< not read, or not to their end: the last three kinds
  int64_t lost_bytes = 0;  ///< size of the lost files on disk; a file that was cut off counts with what is there
  std::vector<std::string> lost_places;  ///< the first 20: "file: what"

  int64_t json_texts = 0;       ///< .json files that hold no documents, each read as one text
  std::string json_text_first;  ///< the first of them

  int64_t bad() const {
    return empty + invalid_utf8 + broken_lines + too_long + truncated_files + unread_formats + unreadable;
  }
};
Json corpus_statistics_json(const CorpusStatistics& statistics);
/// Says on stderr how many bad documents of which kind were skipped and where the first one was, if there were any.
/// Also says what else a person should know about the reading.
void warn_of_bad_documents(const CorpusStatistics& statistics);
/// Warns again of lost files, from the JSON of corpus_statistics_json (an older version may lack the keys). It is for
/// the last lines of a long command, which are the ones that are read.
void warn_of_lost_files(const Json& corpus_statistics);

/// The documents that one pass over a corpus returned. Two passes over the same corpus return the same ones.
struct CorpusDigest {
  int64_t documents = 0;
  uint64_t hash = 0;  ///< over the hashes of all texts, in order
  bool operator==(const CorpusDigest&) const = default;
};

/// Reads the documents of a corpus one after another, in a fixed order. A file holds JSON lines, a JSON array, or one
/// document (docs/formats.md, 'Corpus, as read'). Each may be packed with gzip or zstd.
///
/// Memory does not grow with the corpus, except for the hashes that find duplicates: 11 to 33 bytes per document, none
/// with keep_duplicates. A document takes at most about four times document_bytes_max while it is read.
///
/// Throws Error if a path is missing or unreadable, for a bad document under OnBadDocument::fail, when a signal asks to
/// stop, and at the end for too many bad documents or too many lost bytes.
class CorpusReader {
 public:
  /// `stage` is named in the message when a signal stops the reading.
  explicit CorpusReader(CorpusOptions options, std::string stage = "reading the corpus");
  ~CorpusReader();
  CorpusReader(const CorpusReader&) = delete;

  /// Reads the next document. False at the end, where the number of bad documents is checked.
  bool next(Document& document);
  const CorpusStatistics& statistics() const;
  /// Covers the documents returned so far.
  const CorpusDigest& digest() const;
  /// Bytes read so far and in total, as the files lie on disk (total is 0 for stdin). For progress.
  int64_t bytes_read() const;
  int64_t bytes_total() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Throws Error if a corpus cannot be read at all: a path is missing, a directory holds nothing, or the corpus is a run
/// directory. Reads no file.
void check_corpus(const CorpusOptions& options);

/// A hash over the relative path and the contents of all files in the order of reading, and over the settings of
/// reading. It tells whether the input of a stage has changed. Copying or touching files does not change it.
///
/// `cache` names a file that keeps the hashes of files by size, times and inode, so that unchanged files are not read
/// again; "" means no cache. A damaged cache is ignored. One that cannot be written is not kept. Throws Error, also
/// when a signal asks to stop.
std::string corpus_fingerprint(const CorpusOptions& options, const std::filesystem::path& cache = {});

/// The split that a document belongs to. Shards hold all three, as train / valid / tune .bin and .idx:
///   train  models are trained on it, and the router is fitted on it
///   valid  the test set: every reported perplexity comes from it, and no choice is made by it
///   tune   held out too, for choosing settings (router temperature, learning rate); never reported
enum class Split : uint8_t { train, valid, tune };

/// Splits by a hash of the document's text, so that a document stays in its split when files are added or moved. u =
/// hash64(text, seed) / 2^64 is uniform. A document is valid if u < valid_fraction, tune if u >= 1 - tune_fraction,
/// else train.
struct HeldOutSplit {
  double valid_fraction = 0.01;
  double tune_fraction = 0.01;

  /// The wanted fraction for each of valid and tune. It is raised so that each holds about `minimum` documents, but to
  /// no more than a quarter of the corpus.
  static HeldOutSplit for_corpus(int64_t documents, double valid_fraction, int64_t minimum = 50);
  /// The split of a document.
  Split side(std::string_view text) const;
};

}  // namespace cbtm
