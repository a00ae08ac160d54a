#include "tests/fuzz/mutate_json.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "cbtm/base/json.h"
#include "tests/fuzz/input_files.h"

namespace cbtm::fuzz {
namespace {

/// Whether brackets nest so deep that copies of the value, which recurse, might not fit the stack. (Those in strings
/// count as well: then a text is left as it is without need.)
bool nests_deep(const std::string& text) {
  constexpr int kDepthMax = 500;
  int depth = 0;
  for (const char c : text) {
    if (c == '[' || c == '{') ++depth;
    if (c == ']' || c == '}') --depth;
    if (depth > kDepthMax) return true;
  }
  return false;
}

class Mutator {
 public:
  explicit Mutator(uint32_t seed) : random_(seed) {}

  size_t below(size_t limit) { return std::uniform_int_distribution<size_t>(0, limit - 1)(random_); }

  /// The text with one value changed, or as it is if it is no JSON.
  std::string mutated(const std::string& text) {
    if (nests_deep(text)) return text;
    Json root = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (root.is_discarded()) return text;
    std::vector<Json*> values = {&root};
    for (size_t i = 0; i < values.size() && values.size() < kValuesMax; ++i)
      for (Json& child : *values[i])
        if (values[i]->is_structured()) values.push_back(&child);
    Json& chosen = *values[below(values.size())];
    const Json other = *values[below(values.size())];
    switch (below(5)) {
      case 0: chosen = other; break;
      case 1: remove_member(chosen); break;
      case 2: add_member(chosen, below(2) == 0 ? other : unusual()); break;
      default: chosen = unusual(); break;
    }
    return root.dump(-1, ' ', false, Json::error_handler_t::replace);
  }

 private:
  static constexpr size_t kValuesMax = 10'000;

  Json unusual() {
    static const std::vector<Json> values = {nullptr,
                                             true,
                                             false,
                                             0,
                                             1,
                                             2,
                                             -1,
                                             0.5,
                                             -0.0,
                                             1e300,
                                             -1e300,
                                             1e-320,
                                             1e18,
                                             std::numeric_limits<int64_t>::max(),
                                             std::numeric_limits<int64_t>::min(),
                                             std::numeric_limits<uint64_t>::max(),
                                             uint64_t{1} << 63,
                                             int64_t{1} << 32,
                                             int64_t{1} << 31,
                                             65536,
                                             "",
                                             "a",
                                             "0",
                                             "</s>",
                                             "\n",
                                             std::string("\0", 1),
                                             "../x",
                                             "english",
                                             Json::array(),
                                             Json::object(),
                                             Json::array({nullptr}),
                                             Json::array({Json::array()}),
                                             Json{{"", nullptr}}};
    return values[below(values.size())];
  }

  void remove_member(Json& value) {
    if (!value.is_structured() || value.empty()) return;
    value.erase(std::next(value.begin(), static_cast<std::ptrdiff_t>(below(value.size()))));
  }

  void add_member(Json& value, Json member) {
    if (value.is_array())
      value.insert(std::next(value.begin(), static_cast<std::ptrdiff_t>(below(value.size() + 1))), std::move(member));
    else if (value.is_object())
      value[value.empty() || below(4) == 0
                ? "x"
                : std::next(value.begin(), static_cast<std::ptrdiff_t>(below(value.size()))).key() + "x"] =
          std::move(member);
    else
      value = Json::array({value, std::move(member)});
  }

  std::minstd_rand random_;
};

std::string mutate_line(Mutator& mutator, const std::string& text) {
  size_t begin = text.rfind('\n', text.empty() ? 0 : mutator.below(text.size()));
  begin = begin == std::string::npos ? 0 : begin + 1;
  const size_t end = std::min(text.find('\n', begin), text.size());
  return text.substr(0, begin) + mutator.mutated(text.substr(begin, end - begin)) + text.substr(end);
}

/// Without its length field, which the repair sets afterwards.
std::string mutate_header(Mutator& mutator, const std::string& file) {
  uint64_t length = 0;
  if (file.size() < sizeof length) return file;
  std::memcpy(&length, file.data(), sizeof length);
  if (length > file.size() - sizeof length) return file;
  return file.substr(0, sizeof length) + mutator.mutated(file.substr(sizeof length, length)) +
         file.substr(sizeof length + length);
}

}  // namespace

std::string mutate_json_parts(std::string_view input, uint32_t seed) {
  std::vector<Part> parts = split_parts(input);
  if (parts.empty()) return std::string(input);
  Mutator mutator(seed);
  Part& part = parts[mutator.below(parts.size())];
  if (part.name.ends_with(".json")) part.contents = mutator.mutated(part.contents);
  if (part.name.ends_with(".jsonl")) part.contents = mutate_line(mutator, part.contents);
  if (part.name.ends_with(".safetensors")) part.contents = mutate_header(mutator, part.contents);
  return join_parts(parts);
}

}  // namespace cbtm::fuzz
