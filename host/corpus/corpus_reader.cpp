#include <algorithm>
#include <optional>

#include "cbtm/base/error.h"
#include "cbtm/base/hash.h"
#include "cbtm/base/memory.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/utf8.h"
#include "cbtm/corpus/corpus.h"
#include "cbtm/corpus/file_name.h"
#include "corpus/corpus_files.h"
#include "corpus/file_format.h"
#include "corpus/file_text.h"
#include "corpus/json_array.h"
#include "corpus/json_layout.h"
#include "corpus/json_line.h"
#include "corpus/text_hashes.h"

namespace cbtm {
namespace {

constexpr size_t kPlacesKept = 20;
constexpr int64_t kEnoughToJudge = 100;

}  // namespace

struct CorpusReader::State {
  CorpusOptions options;
  std::string stage;
  std::vector<CorpusFile> files;
  CorpusStatistics statistics;
  CorpusDigest digest;
  TextHashes seen;
  size_t next_file = 0;
  std::optional<FileText> text;  ///< of files[next_file - 1] while it is being read
  std::optional<JsonArrayReader> array;
  FileLayout layout = FileLayout::text;
  std::string shown;    ///< the file's path, for messages
  std::string id_name;  ///< its name, for ids
  int64_t line_number = 0;
  int64_t documents_before = 0;  ///< given out or found twice when the file was opened
  int64_t bytes_done = 0;
  int64_t bytes_total = 0;

  const CorpusFile& file() const { return files[next_file - 1]; }
  const std::string& place() const { return shown; }
  size_t limit() const { return static_cast<size_t>(options.document_bytes_max); }
  void bad(int64_t& counter, const std::string& place, const std::string& what);
  void lost(int64_t& counter, const std::string& what, int64_t bytes);
  bool open_file();
  void close_file();
  bool find_domain(Document& document, std::string in_field);
  bool accept(Document& document);
  void too_long(const std::string& place);
  bool next_piece(std::string_view& piece, std::string& number, Piece& kind);
  bool next_json_document(Document& document);
  bool next_whole_file(Document& document);
  bool next_in_file(Document& document);
  void check_total() const;
};

void CorpusReader::State::bad(int64_t& counter, const std::string& place, const std::string& what) {
  if (options.on_bad_document == OnBadDocument::fail)
    fail("{}: {}; correct it, or pass --on-bad-document skip", place, what);
  ++counter;
  if (statistics.bad_places.size() < kPlacesKept) statistics.bad_places.push_back(place + ": " + what);
}

/// The file was not read, or not to its end.
void CorpusReader::State::lost(int64_t& counter, const std::string& what, int64_t bytes) {
  bad(counter, place(), what);
  ++statistics.lost_files;
  statistics.lost_bytes += bytes;
  if (statistics.lost_places.size() < kPlacesKept) statistics.lost_places.push_back(place() + ": " + what);
}

/// Opens the next file and finds out how its documents lie in it. False if it is one that cannot be read.
bool CorpusReader::State::open_file() {
  ++next_file;
  line_number = 0;
  shown = shown_path(file().path);
  id_name = utf8_name(file().name);
  documents_before = statistics.documents + statistics.duplicates;
  try {
    text.emplace(file().path, stage);
  } catch (const Error& error) {
    // A file that was named is what the person wants to be read; of a directory the rest may be worth having.
    if (file().given || error.exit_code() == kExitInterrupted) throw;
    const std::string what = error.what();
    const std::string prefix = place() + ": ";
    lost(statistics.unreadable, what.starts_with(prefix) ? what.substr(prefix.size()) : what, file().bytes);
    return false;
  }
  const bool whole = !text->hold(kLayoutBytes);
  if (const std::string format = unread_format(text->held().substr(0, kFormatBytes)); !format.empty()) {
    const std::string packing = text->source().packing();
    lost(statistics.unread_formats, packing.empty() ? format : fmt::format("within {}, {}", packing, format),
         file().bytes);
    bytes_done += file().bytes;
    text.reset();
    return false;
  }
  text->drop(utf8_mark_bytes(text->held()));
  layout = file_layout(file().path, text->held(), whole, options.text_field);
  if (layout == FileLayout::json_array) array.emplace(*text, limit());
  return true;
}

void CorpusReader::State::close_file() {
  const int64_t documents = statistics.documents + statistics.duplicates - documents_before;
  const int64_t taken = text->source().bytes_taken();
  if (const std::string damage = text->damage(); !damage.empty()) {
    const int64_t doubtful = text->source().bytes_doubtful();
    const int64_t left = std::max<int64_t>(0, file().bytes - taken) + doubtful;
    lost(statistics.truncated_files,
         documents == 0 ? fmt::format("{}; nothing of it was read", damage)
                        : fmt::format("{}; {} documents of it were read{}, what follows them is lost", damage,
                                      format_count(documents), doubtful > 0 ? ", of which some may be wrong" : ""),
         documents == 0 ? file().bytes : left);
  } else if (array && !array->problem().empty()) {
    lost(statistics.truncated_files,
         fmt::format("{}; {} documents of it were read", array->problem(), format_count(documents)),
         documents == 0 ? file().bytes : std::max<int64_t>(0, file().bytes - taken));
  }
  if (const std::string remark = text->source().remark(); !remark.empty())
    say_once(fmt::format("{}: {}", place(), remark));
  bytes_done += taken;
  array.reset();
  text.reset();
}

/// The document's domain, if domains are asked for. False if it has none: then it is a bad document, and counted.
bool CorpusReader::State::find_domain(Document& document, std::string in_field) {
  document.domain.clear();
  if (options.domain_source == DomainSource::none) return true;
  if (options.domain_source == DomainSource::field) {
    document.domain = std::move(in_field);
  } else if (const size_t slash = id_name.find('/'); slash != std::string::npos) {
    document.domain = id_name.substr(0, slash);
  }
  const size_t bytes = document.domain.size();
  if (bytes > 0 && bytes <= kDomainBytesMax) return true;
  const std::string field = shown_path(options.domain_field);
  bad(statistics.broken_lines, document.place,
      bytes > 0 ? fmt::format("its domain is a name of {} bytes, more than {}", bytes, kDomainBytesMax)
      : options.domain_source == DomainSource::field
          ? fmt::format("no domain: it has no field '{}' with a name or a number", field)
          : "no domain: it lies in no directory below the corpus path; name a field with --domain-field, or give the "
            "directory above");
  return false;
}

/// Counts the document, unless it is a duplicate.
bool CorpusReader::State::accept(Document& document) {
  const uint64_t hash = hash64(document.text);
  if (!options.keep_duplicates) {
    constexpr size_t kWorthSaying = size_t{1} << 30;
    if (!seen.insert(hash)) {
      ++statistics.duplicates;
      return false;
    }
    if (seen.bytes() >= kWorthSaying)
      say_once("the hashes that find duplicates take 1 GiB and more; --keep-duplicates does without them");
  }
  ++statistics.documents;
  statistics.text_bytes += static_cast<int64_t>(document.text.size());
  const uint64_t link[] = {digest.hash, hash};
  digest = {statistics.documents, hash64({reinterpret_cast<const char*>(link), sizeof link})};
  return true;
}

void CorpusReader::State::too_long(const std::string& where) {
  bad(statistics.too_long, where,
      fmt::format("longer than {}; split it, or raise --max-document-bytes", format_bytes(options.document_bytes_max)));
}

/// The next line or array element, and its number in the file for ids and messages.
bool CorpusReader::State::next_piece(std::string_view& piece, std::string& number, Piece& kind) {
  kind = array ? array->next(piece) : text->next_line(piece, limit());
  ++line_number;
  number = std::to_string(line_number);
  return kind != Piece::none;
}

bool CorpusReader::State::next_json_document(Document& document) {
  std::string_view piece;
  std::string number;
  Piece kind = Piece::none;
  JsonLineFields fields;
  while (next_piece(piece, number, kind)) {
    const std::string where = place() + ":" + number;
    if (kind == Piece::too_long) {
      too_long(where);
      continue;
    }
    if (array == std::nullopt) piece.remove_prefix(utf8_mark_bytes(piece));  // of files that were joined
    if (piece.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string problem = parse_json_line(piece, options.text_field, fields, options.domain_field);
    if (problem.starts_with("not UTF-8")) {
      bad(statistics.invalid_utf8, where, problem);
    } else if (!problem.empty()) {
      bad(statistics.broken_lines, where, problem);
    } else if (fields.text.empty()) {
      bad(statistics.empty, where, "empty document");
    } else {
      document.text = std::move(fields.text);
      document.id = fields.id.empty() ? id_name + ":" + number : std::move(fields.id);
      document.place = where;
      if (find_domain(document, std::move(fields.domain)) && accept(document)) return true;
    }
  }
  return false;
}

bool CorpusReader::State::next_whole_file(Document& document) {
  if (line_number++ > 0) return false;
  if (text->hold(limit() + 1)) {
    too_long(place());
    return false;
  }
  if (!text->damage().empty()) return false;  // counted when the file is closed
  if (text->held().empty()) {
    bad(statistics.empty, place(), "empty document");
    return false;
  }
  if (const size_t invalid = find_invalid_utf8(text->held()); invalid != std::string::npos) {
    bad(statistics.invalid_utf8, place(), fmt::format("not UTF-8 at byte {}", invalid + 1));
    return false;
  }
  document.text = text->take();
  document.id = id_name;
  document.place = place();
  JsonLineFields fields;
  if (layout == FileLayout::json_value) {
    if (parse_json_line(document.text, options.text_field, fields, options.domain_field).empty()) {
      document.text = std::move(fields.text);
      if (!fields.id.empty()) document.id = std::move(fields.id);
      if (document.text.empty()) {
        bad(statistics.empty, place(), "empty document");
        return false;
      }
    } else {
      fields = {};  // not an object with a text: it is one text, and its fields say nothing
      if (statistics.json_texts++ == 0) statistics.json_text_first = place();
    }
  }
  return find_domain(document, std::move(fields.domain)) && accept(document);
}

bool CorpusReader::State::next_in_file(Document& document) {
  const bool pieces = layout == FileLayout::json_lines || layout == FileLayout::json_array;
  return pieces ? next_json_document(document) : next_whole_file(document);
}

void CorpusReader::State::check_total() const {
  // Empty documents are counted and said, but people's files hold many of them: they are no sign of a wrong file.
  const int64_t bad_documents = statistics.bad() - statistics.empty;
  const int64_t total = statistics.documents + statistics.duplicates + bad_documents;
  if (statistics.documents == 0)
    fail("the corpus holds no usable document{}",
         statistics.bad_places.empty() ? "" : "; first problem: " + statistics.bad_places.front());
  const double lost_fraction =
      static_cast<double>(statistics.lost_bytes) / static_cast<double>(std::max<int64_t>(1, bytes_total));
  if (bytes_total > 0 && lost_fraction > options.bad_fraction_max)
    fail(
        "{} of {} of the corpus cannot be read ({:.2g} %), more than {:g} %; mend or remove the files, or pass "
        "--max-bad-fraction; first: {}",
        format_bytes(statistics.lost_bytes), format_bytes(bytes_total), 100 * lost_fraction,
        100 * options.bad_fraction_max, statistics.lost_places.front());
  if (total < kEnoughToJudge ||
      static_cast<double>(bad_documents) <= options.bad_fraction_max * static_cast<double>(total))
    return;
  fail(
      "{} of {} documents are bad, more than {:g} %; is this the right corpus and --text-field? If it is, pass "
      "--max-bad-fraction; first: {}",
      bad_documents, total, 100 * options.bad_fraction_max, statistics.bad_places.front());
}

CorpusReader::CorpusReader(CorpusOptions options, std::string stage) : state_(std::make_unique<State>()) {
  State& s = *state_;
  CorpusFiles listed = list_corpus_files(options);
  s.options = std::move(options);
  s.stage = std::move(stage);
  s.files = std::move(listed.files);
  for (const CorpusFile& file : s.files) s.bytes_total += file.bytes;
  for (const std::string& problem : listed.problems) {
    ++s.statistics.unreadable;
    ++s.statistics.lost_files;
    for (std::vector<std::string>* places : {&s.statistics.bad_places, &s.statistics.lost_places})
      if (places->size() < kPlacesKept) places->push_back(problem);
  }
}
CorpusReader::~CorpusReader() = default;

bool CorpusReader::next(Document& document) {
  State& s = *state_;
  while (true) {
    if (s.text) {
      if (s.next_in_file(document)) return true;
      s.close_file();
    } else if (s.next_file == s.files.size()) {
      s.check_total();
      return false;
    } else {
      s.open_file();
    }
  }
}

const CorpusStatistics& CorpusReader::statistics() const { return state_->statistics; }
const CorpusDigest& CorpusReader::digest() const { return state_->digest; }
int64_t CorpusReader::bytes_read() const {
  return state_->bytes_done + (state_->text ? state_->text->source().bytes_taken() : 0);
}
int64_t CorpusReader::bytes_total() const { return state_->bytes_total; }

}  // namespace cbtm
