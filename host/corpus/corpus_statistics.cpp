#include "cbtm/base/error.h"
#include "cbtm/base/memory.h"
#include "cbtm/base/progress.h"
#include "cbtm/corpus/corpus.h"

namespace cbtm {

void warn_of_bad_documents(const CorpusStatistics& statistics) {
  if (statistics.json_texts > 0)
    say(
        fmt::format("{} .json files hold no documents (JSON lines, or an array of objects) and were read as one text "
                    "each, first: {}",
                    format_count(statistics.json_texts), statistics.json_text_first));
  if (statistics.bad() == 0) return;
  std::string kinds;
  const auto add = [&](int64_t count, const char* kind) {
    if (count > 0) kinds += fmt::format("{}{} {}", kinds.empty() ? "" : ", ", count, kind);
  };
  add(statistics.empty, "empty");
  add(statistics.invalid_utf8, "not UTF-8");
  add(statistics.broken_lines, "broken lines");
  add(statistics.too_long, "too long");
  add(statistics.truncated_files, "damaged files");
  add(statistics.unread_formats, "files in formats that are not read");
  add(statistics.unreadable, "unreadable files or folders");
  warn(fmt::format("{} bad documents skipped ({}), first: {}", statistics.bad(), kinds, statistics.bad_places.front()));
}

void warn_of_lost_files(const Json& corpus_statistics) {
  if (!corpus_statistics.is_object()) return;
  const auto count = corpus_statistics.value("lost_files", int64_t{0});
  const Json places = corpus_statistics.value("lost_places", Json::array());
  if (count == 0 || !places.is_array() || places.empty()) return;
  const auto bytes = corpus_statistics.value("lost_bytes", int64_t{0});
  warn(fmt::format("{} files or folders of the corpus were not read to their end{}, first: {}", count,
                   bytes > 0 ? fmt::format(" ({} at least)", format_bytes(bytes)) : "",
                   places.front().get<std::string>()));
}

Json corpus_statistics_json(const CorpusStatistics& statistics) {
  return {{"documents", statistics.documents},
          {"text_bytes", statistics.text_bytes},
          {"duplicates", statistics.duplicates},
          {"empty", statistics.empty},
          {"invalid_utf8", statistics.invalid_utf8},
          {"broken_lines", statistics.broken_lines},
          {"too_long", statistics.too_long},
          {"truncated_files", statistics.truncated_files},
          {"unread_formats", statistics.unread_formats},
          {"unreadable", statistics.unreadable},
          {"bad_places", statistics.bad_places},
          {"lost_files", statistics.lost_files},
          {"lost_bytes", statistics.lost_bytes},
          {"lost_places", statistics.lost_places},
          {"json_texts", statistics.json_texts}};
}

}  // namespace cbtm
