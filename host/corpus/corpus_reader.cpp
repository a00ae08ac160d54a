#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "cbtm/base/error.h"
#include "cbtm/base/hash.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/utf8.h"
#include "cbtm/corpus/corpus.h"
#include "corpus/byte_source.h"
#include "corpus/corpus_files.h"
#include "corpus/json_line.h"

namespace cbtm {
namespace {

constexpr size_t kPlacesKept = 20;
constexpr int64_t kEnoughToJudge = 100;

}  // namespace

struct CorpusReader::State {
  CorpusOptions options;
  std::vector<CorpusFile> files;
  CorpusStatistics statistics;
  std::unordered_set<uint64_t> seen;
  size_t next_file = 0;
  std::unique_ptr<ByteSource> source;  ///< of files[next_file - 1] while it is being read
  std::string pending;                 ///< bytes read and not yet given out
  size_t pending_begin = 0;
  bool source_ended = false;
  int64_t line_number = 0;
  int64_t bytes_done = 0;

  const CorpusFile& file() const { return files[next_file - 1]; }
  void bad(int64_t& counter, const std::string& place, const std::string& what);
  void close_file();
  bool read_more();
  bool next_line(std::string_view& line);
  bool accept(Document& document);
  bool next_json_document(Document& document);
  bool next_whole_file(Document& document);
  void check_total() const;
};

void CorpusReader::State::bad(int64_t& counter, const std::string& place, const std::string& what) {
  if (options.on_bad_document == OnBadDocument::fail)
    fail("{}: {}; correct it, or pass --on-bad-document skip", place, what);
  ++counter;
  if (statistics.bad_places.size() < kPlacesKept) statistics.bad_places.push_back(place + ": " + what);
}

void CorpusReader::State::close_file() {
  if (const std::string damage = source->damage(); !damage.empty())
    bad(statistics.truncated_files, file().path.string(), damage);
  bytes_done += source->bytes_taken();
  source.reset();
  pending.clear();
  pending_begin = 0;
}

bool CorpusReader::State::read_more() {
  if (source_ended) return false;
  pending.erase(0, pending_begin);
  pending_begin = 0;
  constexpr size_t kPiece = size_t{1} << 18;
  const size_t before = pending.size();
  pending.resize(before + kPiece);
  const size_t count = source->read({pending.data() + before, kPiece});
  pending.resize(before + count);
  source_ended = count == 0;
  return count > 0;
}

bool CorpusReader::State::next_line(std::string_view& line) {
  size_t searched = pending_begin;
  while (true) {
    const size_t end = pending.find('\n', searched);
    if (end != std::string::npos) {
      line = std::string_view(pending).substr(pending_begin, end - pending_begin);
      pending_begin = end + 1;
      ++line_number;
      return true;
    }
    const size_t held = pending.size() - pending_begin;
    if (!read_more()) {
      // A last line without its newline counts, unless the data itself was cut off.
      if (held == 0 || !source->damage().empty()) return false;
      line = std::string_view(pending).substr(pending_begin);
      pending_begin = pending.size();
      ++line_number;
      return true;
    }
    searched = pending_begin + held;
  }
}

/// Counts the document, unless it is a duplicate.
bool CorpusReader::State::accept(Document& document) {
  if (!options.keep_duplicates && !seen.insert(hash64(document.text)).second) {
    ++statistics.duplicates;
    return false;
  }
  ++statistics.documents;
  statistics.text_bytes += static_cast<int64_t>(document.text.size());
  return true;
}

bool CorpusReader::State::next_json_document(Document& document) {
  std::string_view line;
  JsonLineFields fields;
  while (next_line(line)) {
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string place = fmt::format("{}:{}", file().path.string(), line_number);
    const std::string problem = parse_json_line(line, options.text_field, fields);
    if (problem == "not UTF-8") {
      bad(statistics.invalid_utf8, place, problem);
    } else if (!problem.empty()) {
      bad(statistics.broken_lines, place,
          problem == "no text field" ? fmt::format("no text field '{}'", options.text_field) : problem);
    } else if (fields.text.empty()) {
      bad(statistics.empty, place, "empty document");
    } else {
      document.text = std::move(fields.text);
      document.id = fields.id.empty() ? fmt::format("{}:{}", file().name, line_number) : std::move(fields.id);
      document.place = place;
      if (accept(document)) return true;
    }
  }
  return false;
}

bool CorpusReader::State::next_whole_file(Document& document) {
  while (read_more()) {
  }
  const std::string place = file().path.string();
  if (!source->damage().empty()) return false;  // counted when the file is closed
  if (pending.empty()) {
    bad(statistics.empty, place, "empty document");
    return false;
  }
  if (const size_t invalid = find_invalid_utf8(pending); invalid != std::string::npos) {
    bad(statistics.invalid_utf8, place, fmt::format("not UTF-8 at byte {}", invalid));
    return false;
  }
  document.text = std::move(pending);
  document.id = file().name;
  document.place = place;
  pending.clear();
  return accept(document);
}

void CorpusReader::State::check_total() const {
  const int64_t bad_documents = statistics.bad();
  const int64_t total = statistics.documents + statistics.duplicates + bad_documents;
  if (statistics.documents == 0)
    fail("the corpus holds no usable document{}",
         statistics.bad_places.empty() ? "" : "; first problem: " + statistics.bad_places.front());
  if (total < kEnoughToJudge ||
      static_cast<double>(bad_documents) <= options.bad_fraction_max * static_cast<double>(total))
    return;
  fail("{} of {} documents are bad, more than {:.0f} %; is this the right corpus and --text-field? first: {}",
       bad_documents, total, 100 * options.bad_fraction_max, statistics.bad_places.front());
}

CorpusReader::CorpusReader(CorpusOptions options) : state_(std::make_unique<State>()) {
  state_->files = list_corpus_files(options.paths);
  state_->options = std::move(options);
}
CorpusReader::~CorpusReader() = default;

bool CorpusReader::next(Document& document) {
  State& s = *state_;
  while (true) {
    if (s.source == nullptr) {
      if (s.next_file == s.files.size()) {
        s.check_total();
        return false;
      }
      s.source = ByteSource::open(s.files[s.next_file++].path);
      s.source_ended = false;
      s.line_number = 0;
    }
    if (s.file().json_lines) {
      if (s.next_json_document(document)) return true;
      s.close_file();
    } else {
      const bool found = s.next_whole_file(document);
      s.close_file();
      if (found) return true;
    }
  }
}

const CorpusStatistics& CorpusReader::statistics() const { return state_->statistics; }
int64_t CorpusReader::bytes_read() const {
  return state_->bytes_done + (state_->source != nullptr ? state_->source->bytes_taken() : 0);
}
int64_t CorpusReader::bytes_total() const {
  int64_t total = 0;
  for (const CorpusFile& file : state_->files) total += file.bytes;
  return total;
}

void warn_of_bad_documents(const CorpusStatistics& statistics) {
  if (statistics.bad() == 0) return;
  warn(fmt::format("{} bad documents skipped ({} empty, {} not UTF-8, {} broken lines, {} damaged files), first: {}",
                   statistics.bad(), statistics.empty, statistics.invalid_utf8, statistics.broken_lines,
                   statistics.truncated_files, statistics.bad_places.front()));
}

Json corpus_statistics_json(const CorpusStatistics& statistics) {
  return {{"documents", statistics.documents},
          {"text_bytes", statistics.text_bytes},
          {"duplicates", statistics.duplicates},
          {"empty", statistics.empty},
          {"invalid_utf8", statistics.invalid_utf8},
          {"broken_lines", statistics.broken_lines},
          {"truncated_files", statistics.truncated_files},
          {"bad_places", statistics.bad_places}};
}

HeldOutSplit HeldOutSplit::for_corpus(int64_t documents, double valid_fraction, int64_t minimum) {
  constexpr double kMost = 0.25;
  constexpr double kMargin = 1.3;  // the hash deals documents out at random: some more than the minimum are aimed at
  const double needed = documents > 0 ? kMargin * static_cast<double>(minimum) / static_cast<double>(documents) : kMost;
  const double fraction = std::min(kMost, std::max(valid_fraction, needed));
  return {fraction, fraction};
}

Split HeldOutSplit::side(std::string_view text) const {
  constexpr uint64_t kSplitSeed = 0x63627463;  // another hash than the one that finds duplicates
  const double u = static_cast<double>(hash64(text, kSplitSeed)) * 0x1p-64;
  if (u < valid_fraction) return Split::valid;
  return u >= 1 - tune_fraction ? Split::tune : Split::train;
}

}  // namespace cbtm
