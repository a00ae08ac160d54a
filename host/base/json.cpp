#include "cbtm/base/json.h"

#include <algorithm>
#include <cctype>
#include <utility>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/foreign_file.h"
#include "cbtm/base/mapped_file.h"
#include "cbtm/base/utf8.h"

namespace cbtm {
namespace {

/// "line 3, column 14" of a byte of the text.
std::string line_and_column(std::string_view text, size_t place) {
  const std::string_view before = text.substr(0, place);
  const auto line = std::count(before.begin(), before.end(), '\n') + 1;
  const size_t start = before.rfind('\n');
  return fmt::format("line {}, column {}", line, place - (start == std::string_view::npos ? 0 : start + 1) + 1);
}

/// Builds the values as the parser meets them, and counts what they cost.
class Builder {
 public:
  Builder(std::string_view text, const std::string& where, const JsonLimits& limits)
      : text_(text), where_(where), limits_(limits) {}

  Json take() { return std::move(root_); }

  bool null() { return add(nullptr, 0); }
  bool boolean(bool value) { return add(value, 0); }
  bool number_integer(int64_t value) { return add(value, 0); }
  bool number_unsigned(uint64_t value) { return add(value, 0); }
  bool number_float(double value, const std::string&) { return add(value, 0); }
  bool string(std::string& value) {
    const size_t bytes = sizeof(std::string) + value.size();
    return add(std::move(value), bytes);
  }
  bool binary(Json::binary_t&) { return false; }
  bool start_object(size_t) { return enter(Json::object(), sizeof(Json::object_t)); }
  bool start_array(size_t) { return enter(Json::array(), sizeof(Json::array_t)); }
  bool end_object() { return leave(); }
  bool end_array() { return leave(); }
  bool key(std::string& value) {
    constexpr size_t kNodeBytes = 96;  // a node of the map: links, key, value
    spend(kNodeBytes + value.size());
    Json::object_t& object = open_.back()->get_ref<Json::object_t&>();
    const auto [place, is_new] = object.emplace(std::move(value), nullptr);
    if (!is_new) fail("{}: the key '{}' is there twice in one object", where_, shown_text(place->first));
    next_ = &place->second;
    return true;
  }
  bool parse_error(size_t position, const std::string&, const Json::exception& error) {
    // `position` counts the bytes read, the one that does not fit included.
    const size_t place = std::min(position == 0 ? 0 : position - 1, text_.size());
    if (error.id == 406) fail("{}: not valid JSON at {}: a number is too large", where_, line_and_column(text_, place));
    if (position > text_.size() || text_.empty())
      fail("{}: not valid JSON: it ends in the middle, at {}; the file was cut off", where_,
           line_and_column(text_, text_.size()));
    const auto of_word = [](char c) {
      return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '.';
    };
    size_t begin = place;
    while (begin > 0 && of_word(text_[place]) && of_word(text_[begin - 1])) --begin;
    for (const std::string_view name : {"NaN", "nan", "Infinity", "-Infinity", "inf", "-inf", "-nan"})
      if (text_.substr(begin).starts_with(name))
        fail("{}: not valid JSON at {}: {} is no JSON number", where_, line_and_column(text_, begin), name);
    fail("{}: not valid JSON at {}: '{}' does not belong there", where_, line_and_column(text_, place),
         shown_text(text_.substr(place, 1)));
  }

 private:
  void spend(size_t bytes) {
    spent_ += static_cast<int64_t>(bytes);
    if (spent_ > limits_.memory_bytes)
      fail("{}: holds more values than are read (they would take over {} MiB of memory)", where_,
           limits_.memory_bytes >> 20);
  }
  Json& place(Json&& value) {
    if (open_.empty()) return root_ = std::move(value);
    if (!open_.back()->is_array()) return *next_ = std::move(value);
    Json::array_t& list = open_.back()->get_ref<Json::array_t&>();
    return list.emplace_back(std::move(value));
  }
  bool add(Json&& value, size_t bytes) {
    spend(sizeof(Json) + bytes);
    place(std::move(value));
    return true;
  }
  bool enter(Json&& value, size_t bytes) {
    spend(sizeof(Json) + 16 + bytes);
    if (static_cast<int>(open_.size()) >= limits_.depth) fail("{}: nested more than {} deep", where_, limits_.depth);
    open_.push_back(&place(std::move(value)));
    return true;
  }
  bool leave() {
    open_.pop_back();
    return true;
  }

  std::string_view text_;
  const std::string& where_;
  const JsonLimits& limits_;
  int64_t spent_ = 0;
  Json root_;
  std::vector<Json*> open_;  // objects and lists around the next value; a list grows only while it is the innermost
  Json* next_ = nullptr;     // where the value of the last key goes
};

std::string quoted(std::string_view key) { return "'" + shown_text(key) + "'"; }

}  // namespace

Json parse_json(std::string_view text, const std::string& where, const JsonLimits& limits) {
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  if (const size_t place = find_invalid_utf8(text); place != std::string_view::npos)
    fail("{}: not UTF-8 at {}; save it as UTF-8", where, line_and_column(text, place));
  Builder builder(text, where, limits);
  if (!Json::sax_parse(text.begin(), text.end(), &builder)) fail("{}: not valid JSON", where);
  return builder.take();
}

Json read_json_file(const std::filesystem::path& path, int64_t bytes_max) {
  const MappedFile file(path);
  if (const std::string foreign = foreign_content(file.text()); !foreign.empty())
    fail("{}: not valid JSON: {}", path.string(), foreign);
  if (static_cast<int64_t>(file.size()) > bytes_max)
    fail("{}: takes {} MiB, but such a JSON file is read up to {} MiB; is it the right file?", path.string(),
         file.size() >> 20, bytes_max >> 20);
  return parse_json(file.text(), path.string());
}

void write_json_file(const std::filesystem::path& path, const Json& value) {
  write_file_atomically(path, value.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

std::string shown_json(const Json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list";
  if (value.is_string()) return "\"" + shown_text(value.get_ref<const std::string&>(), 40) + "\"";
  return value.dump();
}

JsonReader::JsonReader(const Json& json, std::string file, std::string remedy)
    : json_(&json), file_(std::move(file)), remedy_(std::move(remedy)) {}
JsonReader::JsonReader(const JsonReader& parent, const Json& json, std::string path)
    : json_(&json), file_(parent.file_), remedy_(parent.remedy_), path_(std::move(path)) {}

std::string JsonReader::where() const { return path_.empty() ? file_ : file_ + ": '" + path_ + "'"; }

void JsonReader::refuse(const std::string& message) const {
  fail("{}{} {}{}{}", where(), path_.empty() ? ":" : "", message, remedy_.empty() ? "" : "; ", remedy_);
}

void JsonReader::wrong(const char* wanted) const {
  refuse(fmt::format("{}is {}, but must be {}", path_.empty() ? "it " : "", shown_json(*json_), wanted));
}

const Json* JsonReader::find(std::string_view key) const {
  as_object();
  const auto found = json_->find(key);
  return found == json_->end() || found->is_null() ? nullptr : &*found;
}

bool JsonReader::has(std::string_view key) const { return find(key) != nullptr; }

JsonReader JsonReader::at(std::string_view key) const {
  const Json* value = find(key);
  if (value == nullptr) refuse(fmt::format("has no {}", quoted(key)));
  return JsonReader(*this, *value, (path_.empty() ? "" : path_ + ".") + shown_text(key));
}

JsonReader JsonReader::item(size_t index) const {
  if (index >= as_list().size()) refuse(fmt::format("has {} items, but one more is needed", size()));
  return JsonReader(*this, (*json_)[index], fmt::format("{}[{}]", path_, index));
}

const JsonReader& JsonReader::as_object() const {
  if (!json_->is_object()) wrong("an object");
  return *this;
}
const JsonReader& JsonReader::as_list() const {
  if (!json_->is_array()) wrong("a list");
  return *this;
}
JsonReader JsonReader::object(std::string_view key) const { return JsonReader(at(key)).as_object(); }
JsonReader JsonReader::list(std::string_view key) const { return JsonReader(at(key)).as_list(); }
size_t JsonReader::size() const { return as_list().json_->size(); }

std::vector<std::string> JsonReader::keys() const {
  std::vector<std::string> keys;
  for (const auto& [key, value] : as_object().json_->items()) keys.push_back(key);
  return keys;
}

int64_t JsonReader::as_integer(int64_t low, int64_t high) const {
  const bool too_large = json_->is_number_unsigned() && json_->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
  if (json_->is_number_integer() && !too_large) {
    const auto value = json_->get<int64_t>();
    if (value >= low && value <= high) return value;
  }
  if (low == INT64_MIN && high == INT64_MAX) wrong("a whole number");
  if (high == INT64_MAX && !too_large) wrong(fmt::format("a whole number from {} up", low).c_str());
  wrong(fmt::format("a whole number from {} to {}", low, high).c_str());
}

double JsonReader::as_number(double low, double high) const {
  if (!json_->is_number()) wrong("a number");
  const auto value = json_->get<double>();
  if (!(value >= low && value <= high)) wrong(fmt::format("a number from {} to {}", low, high).c_str());
  return value;
}

bool JsonReader::as_truth() const {
  if (!json_->is_boolean()) wrong("true or false");
  return json_->get<bool>();
}

const std::string& JsonReader::as_text() const {
  if (!json_->is_string()) wrong("text");
  return json_->get_ref<const std::string&>();
}

std::vector<std::string> JsonReader::as_texts() const {
  std::vector<std::string> out;
  out.reserve(size());
  for (size_t i = 0; i < json_->size(); ++i)
    out.push_back((*json_)[i].is_string() ? (*json_)[i].get_ref<const std::string&>() : item(i).as_text());
  return out;
}

std::vector<int64_t> JsonReader::as_integers(int64_t low, int64_t high) const {
  std::vector<int64_t> out;
  out.reserve(size());
  for (size_t i = 0; i < json_->size(); ++i) out.push_back(item(i).as_integer(low, high));
  return out;
}

int64_t JsonReader::integer(std::string_view key, int64_t low, int64_t high) const {
  return at(key).as_integer(low, high);
}
double JsonReader::number(std::string_view key, double low, double high) const { return at(key).as_number(low, high); }
bool JsonReader::truth(std::string_view key) const { return at(key).as_truth(); }
const std::string& JsonReader::text(std::string_view key) const { return at(key).as_text(); }
std::vector<std::string> JsonReader::texts(std::string_view key) const { return at(key).as_texts(); }
std::vector<int64_t> JsonReader::integers(std::string_view key, int64_t low, int64_t high) const {
  return at(key).as_integers(low, high);
}

int64_t JsonReader::integer_or(std::string_view key, int64_t otherwise, int64_t low, int64_t high) const {
  return has(key) ? integer(key, low, high) : otherwise;
}
double JsonReader::number_or(std::string_view key, double otherwise, double low, double high) const {
  return has(key) ? number(key, low, high) : otherwise;
}
bool JsonReader::truth_or(std::string_view key, bool otherwise) const { return has(key) ? truth(key) : otherwise; }
std::string JsonReader::text_or(std::string_view key, std::string otherwise) const {
  return has(key) ? text(key) : std::move(otherwise);
}

}  // namespace cbtm
