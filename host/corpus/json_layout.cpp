#include "corpus/json_layout.h"

#include <algorithm>
#include <cctype>
#include <string>

#include "corpus/json_array.h"
#include "corpus/json_line.h"

namespace cbtm {
namespace {

constexpr std::string_view kBlank = " \t\r\n";

enum class NameKind : uint8_t {
  lines,  ///< .jsonl and the like
  json,   ///< .json
  other,  ///< another extension with a letter: .txt, .py
  none    ///< wiki_00, RC_2010-01
};

std::string lower_extension(const std::filesystem::path& name) {
  std::string extension = name.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return extension;
}

NameKind name_kind(std::filesystem::path name) {
  if (name == "-") return NameKind::lines;
  std::string extension = lower_extension(name);
  for (const std::string_view packed : {".gz", ".gzip", ".bgz", ".zst", ".zstd"}) {
    if (extension != packed) continue;
    name = name.stem();
    extension = lower_extension(name);
    break;
  }
  for (const std::string_view lines : {".jsonl", ".jsonlines", ".ndjson", ".jl"})
    if (extension == lines) return NameKind::lines;
  if (extension == ".json") return NameKind::json;
  const bool has_letter =
      std::any_of(extension.begin(), extension.end(), [](unsigned char c) { return std::isalpha(c) != 0; });
  return has_letter ? NameKind::other : NameKind::none;
}

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(kBlank);
  return begin == std::string_view::npos ? "" : text.substr(begin, text.find_last_not_of(kBlank) + 1 - begin);
}

/// What the first lines look like; blank ones are not counted.
struct FirstLines {
  int lines = 0;
  int braced = 0;         ///< begin with { and end with }
  int objects = 0;        ///< are JSON objects
  bool has_text = false;  ///< the first object has the text field
};

FirstLines first_lines(std::string_view beginning, bool whole, std::string_view text_field) {
  constexpr int kEnough = 100;
  FirstLines found;
  while (!beginning.empty() && found.lines < kEnough) {
    const size_t end = beginning.find('\n');
    // The last line may go on behind the beginning. It counts if there is no other.
    const bool cut = end == std::string_view::npos && !whole;
    if (cut && found.lines > 0) break;
    const std::string_view line = trimmed(beginning.substr(0, end));
    beginning.remove_prefix(end == std::string_view::npos ? beginning.size() : end + 1);
    if (line.empty()) continue;
    ++found.lines;
    if (!line.starts_with('{')) continue;
    bool has_text = false;
    const JsonShape shape = json_shape(line, text_field, has_text);
    const bool good = shape == JsonShape::object || (cut && shape == JsonShape::beginning);
    if (line.ends_with('}') || (cut && good)) ++found.braced;
    if (!good) continue;
    if (found.objects++ == 0) found.has_text = has_text;
  }
  return found;
}

/// The text is one array over the whole file, rather than a line that holds an array with other lines below.
bool is_one_array(std::string_view beginning) {
  const std::string_view line = trimmed(beginning.substr(0, beginning.find('\n', beginning.find('['))));
  JsonElementScanner scanner;
  size_t place = 0;
  if (!scanner.scan(line, place)) return true;
  return place == line.size() && trimmed(beginning.substr(beginning.find('[') + line.size())).empty();
}

FileLayout array_layout(NameKind kind, std::string_view beginning, bool whole, std::string_view text_field) {
  const bool lines = kind == NameKind::lines;
  const FileLayout otherwise = lines                    ? FileLayout::json_lines
                               : kind == NameKind::json ? FileLayout::json_value
                                                        : FileLayout::text;
  if (!is_one_array(beginning)) return kind == NameKind::json ? FileLayout::json_lines : otherwise;
  const std::string_view inside = trimmed(beginning.substr(beginning.find('[') + 1));
  if (inside.empty()) return otherwise;
  if (kind == NameKind::json || lines)
    return inside.starts_with('{') || inside.starts_with('"') ? FileLayout::json_array : otherwise;
  if (!inside.starts_with('{')) return otherwise;
  JsonElementScanner scanner;
  size_t place = 0;
  const bool ends = scanner.scan(inside, place);
  bool has_text = false;
  const JsonShape shape = json_shape(inside.substr(0, ends ? place : inside.size()), text_field, has_text);
  const bool good = ends ? shape == JsonShape::object : shape == JsonShape::beginning && !whole;
  return good && (has_text || kind == NameKind::none) ? FileLayout::json_array : otherwise;
}

}  // namespace

FileLayout file_layout(const std::filesystem::path& name, std::string_view beginning, bool whole,
                       std::string_view text_field) {
  const NameKind kind = name_kind(name);
  const size_t first = beginning.find_first_not_of(kBlank);
  if (first == std::string_view::npos) return kind == NameKind::lines ? FileLayout::json_lines : FileLayout::text;
  if (beginning[first] == '[') return array_layout(kind, beginning, whole, text_field);
  if (kind == NameKind::lines) return FileLayout::json_lines;
  const FirstLines found = first_lines(beginning, whole, text_field);
  if (kind == NameKind::json) {
    const bool several = found.lines > 1 || !whole;
    return several && found.braced * 2 >= found.lines ? FileLayout::json_lines : FileLayout::json_value;
  }
  // Other names: the text must hardly be anything but objects; and a .txt or .py of other objects is left as it is.
  const bool lines = found.objects > 0 && found.objects * 10 >= found.lines * 9;
  return lines && (found.has_text || kind == NameKind::none) ? FileLayout::json_lines : FileLayout::text;
}

}  // namespace cbtm
