#include "tokenizer/vocabulary.h"

#include <fmt/format.h>

#include <algorithm>

#include "cbtm/base/error.h"
#include "cbtm/base/foreign_file.h"
#include "cbtm/base/mapped_file.h"
#include "cbtm/base/progress.h"

namespace cbtm {
namespace {

constexpr int64_t kIdMax = 10'000'000;

/// Ids may have gaps, as those of models padded to a round number do, but every id costs memory.
int64_t id_limit(size_t tokens) { return 8 * static_cast<int64_t>(tokens) + 1'000'000; }

}  // namespace

void read_vocabulary(const JsonReader& tokens, Tokenizer::Data& data, Vocabulary& vocabulary) {
  const Json& json = tokens.as_object().json();
  if (json.empty()) tokens.refuse("holds no token");
  int64_t highest = -1;
  const std::string* highest_token = nullptr;
  for (const auto& [token, id] : json.get_ref<const Json::object_t&>()) {
    if (!id.is_number_integer() || (id.is_number_unsigned() && id.get<uint64_t>() > uint64_t{kIdMax}) ||
        id.get<int64_t>() < 0 || id.get<int64_t>() > kIdMax)
      fail("{}: the id of '{}' is {}, not a whole number from 0 to {}", tokens.where(), shown_text(token),
           shown_json(id), kIdMax);
    if (id.get<int64_t>() <= highest) continue;
    highest = id.get<int64_t>();
    highest_token = &token;
  }
  if (highest >= id_limit(json.size()))
    fail("{}: the id of '{}' is {}, but there are only {} tokens; is the file whole?", tokens.where(),
         shown_text(*highest_token), highest, json.size());
  data.grow(static_cast<int32_t>(highest));
  vocabulary.reserve(json.size());
  for (const auto& [token, value] : json.get_ref<const Json::object_t&>()) {
    const auto id = value.get<size_t>();
    if (data.spelling[id] != Spelling::none)
      fail("{}: id {} is given twice, to '{}' too", tokens.where(), id, shown_text(token));
    vocabulary[token] = static_cast<int32_t>(id);
    const bool visible = bytes_of_visible(token, data.bytes[id]);
    data.spelling[id] = visible ? Spelling::visible : Spelling::literal;
    if (!visible) data.bytes[id] = token;
  }
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const auto found = vocabulary.find(visible_of_bytes(std::string(1, static_cast<char>(byte))));
    data.byte_ids[byte] = found == vocabulary.end() ? -1 : found->second;
  }
}

void add_merge(const std::string& left, const std::string& right, const std::string& where,
               const Vocabulary& vocabulary, Tokenizer::Data& data) {
  const auto id_of = [&](const std::string& token) {
    const auto found = vocabulary.find(token);
    if (found == vocabulary.end()) fail("{}: '{}' is not in the vocabulary", where, shown_text(token));
    return found->second;
  };
  if (left.empty() || right.empty()) fail("{}: one of the two tokens is empty", where);
  data.merges.emplace_back(id_of(left), id_of(right));
  data.merge_results.push_back(id_of(left + right));
}

void add_merge_line(std::string_view line, const std::string& where, const Vocabulary& vocabulary,
                    Tokenizer::Data& data) {
  const size_t space = line.find(' ');
  if (space == std::string_view::npos || space == 0 || space + 1 == line.size() ||
      line.find(' ', space + 1) != std::string_view::npos)
    fail("{}: must be two tokens with one space between them, but is '{}'", where, shown_text(line));
  add_merge(std::string(line.substr(0, space)), std::string(line.substr(space + 1)), where, vocabulary, data);
}

void read_merges_file(const std::filesystem::path& path, const Vocabulary& vocabulary, Tokenizer::Data& data) {
  const MappedFile file(path);
  const std::string_view text = file.text();
  if (const std::string foreign = foreign_content(text); !text.empty() && !foreign.empty())
    fail("{}: {}", path.string(), foreign);
  int64_t line_number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    ++line_number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || (line_number == 1 && line.starts_with("#version"))) continue;
    add_merge_line(line, fmt::format("{}:{}", path.string(), line_number), vocabulary, data);
  }
}

std::string token_text(const Tokenizer::Data& data, size_t id) {
  return data.spelling[id] == Spelling::visible ? visible_of_bytes(data.bytes[id]) : data.bytes[id];
}

std::vector<std::string> token_texts(const Tokenizer::Data& data) {
  std::vector<std::string> texts(data.bytes.size());
  for (size_t id = 0; id < texts.size(); ++id)
    if (data.spelling[id] != Spelling::none) texts[id] = token_text(data, id);
  return texts;
}

nlohmann::ordered_json vocabulary_json(const Tokenizer::Data& data) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  // ordered_json's own insertion looks at all keys before it, which takes minutes for a large vocabulary.
  auto& tokens = json.get_ref<nlohmann::ordered_json::object_t&>();
  for (size_t id = 0; id < data.bytes.size(); ++id)
    if (data.spelling[id] != Spelling::none) tokens.emplace_back(token_text(data, id), id);
  return json;
}

void AddedTokenList::add(const AddedToken& token, const std::string& where) {
  if (token.content.empty()) fail("{}: the token is empty; take it out, or give it a text", where);
  const auto [known, is_new] = index_.emplace(token.content, data_.added.size());
  if (!is_new) {
    AddedToken& old = data_.added[known->second];
    const int32_t id = old.id;
    old = token;
    old.id = id;
    data_.special[static_cast<size_t>(id)] = token.special ? 1 : 0;
    return;
  }
  const auto count = static_cast<int32_t>(vocabulary_.size());
  const auto in_vocabulary = vocabulary_.find(token.content);
  const int32_t id = in_vocabulary != vocabulary_.end() ? in_vocabulary->second : std::max(count, highest_ + 1);
  data_.grow(id);
  const auto slot = static_cast<size_t>(id);
  if (in_vocabulary == vocabulary_.end() && data_.spelling[slot] != Spelling::none)
    fail("{}: the vocabulary has {} tokens, but ids up to {}, so '{}' would get an id that another token has", where,
         count, data_.bytes.size() - 1, shown_text(token.content));
  if (token.id != id && first_difference_.empty())
    first_difference_ = token.id >= 0 ? fmt::format("{}: '{}' is to have id {}, but gets {}, as in transformers 5",
                                                    where, shown_text(token.content), token.id, id)
                                      : (in_vocabulary != vocabulary_.end()
                                             ? ""
                                             : fmt::format("{}: '{}' is not in the vocabulary; it gets the new id {}, "
                                                           "as in transformers",
                                                           where, shown_text(token.content), id));
  highest_ = std::max(highest_, id);
  if (!bytes_of_visible(token.content, data_.bytes[slot])) data_.bytes[slot] = token.content;
  data_.special[slot] = token.special ? 1 : 0;
  data_.added.push_back(token);
  data_.added.back().id = id;
}

const AddedToken* AddedTokenList::find(const std::string& content) const {
  const auto found = index_.find(content);
  return found == index_.end() ? nullptr : &data_.added[found->second];
}

void AddedTokenList::finish() const {
  if (!first_difference_.empty()) warn(first_difference_);
}

}  // namespace cbtm
