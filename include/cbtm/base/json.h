#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace cbtm {

using Json = nlohmann::json;

/// Limits for parsing. A text beyond them is an Error that names the limit.
struct JsonLimits {
  int depth = 64;                           ///< of nested objects and lists
  int64_t memory_bytes = int64_t{1} << 30;  ///< estimated memory of the values
};

/// The largest JSON file that is read, unless the caller gives a smaller limit.
inline constexpr int64_t kJsonFileBytesMax = int64_t{1} << 28;

/// Parses JSON. Throws Error that begins with `where` (a file's name) and says line and column. Refused are: syntax
/// errors, NaN and infinity, text that is not UTF-8, duplicate keys in an object, values beyond the limits. Never
/// recurses.
Json parse_json(std::string_view text, const std::string& where, const JsonLimits& limits = {});

/// Reads and parses a JSON file. Throws Error naming the file if it cannot be read, is larger than `bytes_max`, or
/// holds something else (a Git LFS pointer, a web page, nothing), and wherever parse_json throws.
Json read_json_file(const std::filesystem::path& path, int64_t bytes_max = kJsonFileBytesMax);

/// Writes `value` indented, as AtomicFile does.
void write_json_file(const std::filesystem::path& path, const Json& value);

/// Reads a JSON value with checks. It knows its path within the file, so an access that does not find what it asks for
/// throws Error: "run/run.json: 'stages.seed.seconds' is a list, but must be a number; REMEDY".
///
///     const Json json = read_json_file(path);
///     const JsonReader read(json, path.string(), "make it again with 'cbtm cluster'");
///     const int64_t clusters = read.integer("clusters", 1, 4096);
///     for (size_t i = 0; i < read.list("shards").size(); ++i) ... read.list("shards").item(i).text("name")
///
/// The Json must outlive the reader. A key that holds null counts as missing. Functions that end in `_or` return
/// `otherwise` for a missing key, and still throw for a value of the wrong type.
class JsonReader {
 public:
  /// `file` names the file in errors. `remedy` (optional) says what to do about a wrong file.
  JsonReader(const Json& json, std::string file, std::string remedy = "");

  const Json& json() const { return *json_; }
  /// "FILE" or "FILE: 'a.b[3]'", the beginning of messages about this value.
  std::string where() const;
  /// Throws Error: where(), then the message, then the remedy.
  [[noreturn]] void refuse(const std::string& message) const;

  /// Whether this object has `key` and its value is not null. Throws if this is no object.
  bool has(std::string_view key) const;
  /// The value of `key`, of any type.
  JsonReader at(std::string_view key) const;
  JsonReader object(std::string_view key) const;
  JsonReader list(std::string_view key) const;
  /// Keys of this object, sorted.
  std::vector<std::string> keys() const;
  /// The number of items of this list.
  size_t size() const;
  JsonReader item(size_t index) const;

  int64_t integer(std::string_view key, int64_t low = INT64_MIN, int64_t high = INT64_MAX) const;
  double number(std::string_view key, double low = -1e308, double high = 1e308) const;
  bool truth(std::string_view key) const;
  const std::string& text(std::string_view key) const;
  std::vector<std::string> texts(std::string_view key) const;
  std::vector<int64_t> integers(std::string_view key, int64_t low = INT64_MIN, int64_t high = INT64_MAX) const;

  int64_t integer_or(std::string_view key, int64_t otherwise, int64_t low = INT64_MIN, int64_t high = INT64_MAX) const;
  double number_or(std::string_view key, double otherwise, double low = -1e308, double high = 1e308) const;
  bool truth_or(std::string_view key, bool otherwise) const;
  std::string text_or(std::string_view key, std::string otherwise) const;

  // This value itself.
  int64_t as_integer(int64_t low = INT64_MIN, int64_t high = INT64_MAX) const;
  double as_number(double low = -1e308, double high = 1e308) const;
  bool as_truth() const;
  const std::string& as_text() const;
  std::vector<std::string> as_texts() const;
  std::vector<int64_t> as_integers(int64_t low = INT64_MIN, int64_t high = INT64_MAX) const;
  const JsonReader& as_object() const;  ///< this reader, if it is an object
  const JsonReader& as_list() const;

 private:
  JsonReader(const JsonReader& parent, const Json& json, std::string path);
  const Json* find(std::string_view key) const;
  [[noreturn]] void wrong(const char* wanted) const;

  const Json* json_;
  std::string file_, remedy_;
  std::string path_;  ///< "stages.seed"; empty for the whole file
};

/// A short description of a value, for messages: "a list", "\"text\"", "17", "null".
std::string shown_json(const Json& value);

}  // namespace cbtm
