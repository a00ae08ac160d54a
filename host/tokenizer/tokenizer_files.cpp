// vocab.json, merges.txt, special_tokens_map.json (tokenizer reference, section 3).

#include <algorithm>
#include <map>
#include <unordered_map>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/json.h"
#include "cbtm/base/mapped_file.h"
#include "cbtm/base/utf8.h"
#include "cbtm/tokenizer/tokenizer.h"
#include "tokenizer/tokenizer_data.h"

namespace cbtm {

const std::array<char32_t, 256>& visible_characters() {
  static const std::array<char32_t, 256> kVisible = [] {
    std::array<char32_t, 256> visible{};
    char32_t next = 0x100;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const bool itself = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      visible[byte] = itself ? byte : next++;
    }
    return visible;
  }();
  return kVisible;
}

namespace {

constexpr int64_t kIdMax = 10'000'000;

/// Raw bytes of a string of visible characters; false if some character is none of them.
bool to_bytes(std::string_view visible, std::string& bytes) {
  static const std::unordered_map<char32_t, char> kByteOf = [] {
    std::unordered_map<char32_t, char> map;
    for (uint32_t byte = 0; byte < 256; ++byte) map[visible_characters()[byte]] = static_cast<char>(byte);
    return map;
  }();
  bytes.clear();
  for (size_t place = 0; place < visible.size();) {
    const Utf8Step step = decode_utf8(visible, place);
    const auto found = kByteOf.find(step.code_point);
    if (!step.well_formed || found == kByteOf.end()) return false;
    bytes += found->second;
    place += step.bytes;
  }
  return true;
}

std::string to_visible(std::string_view bytes) {
  std::string visible;
  for (const char byte : bytes) append_utf8(visible_characters()[static_cast<uint8_t>(byte)], visible);
  return visible;
}

void read_vocabulary(const std::filesystem::path& path, Tokenizer::Data& data,
                     std::unordered_map<std::string, int32_t>& id_of) {
  const Json json = read_json_file(path);
  if (!json.is_object() || json.empty()) fail("{}: must be an object from token to id", path.string());
  int64_t highest = -1;
  for (const auto& [token, id] : json.items()) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > kIdMax)
      fail("{}: the id of '{}' is {}, not a whole number from 0 to {}", path.string(), token, id.dump(), kIdMax);
    highest = std::max(highest, id.get<int64_t>());
  }
  data.bytes.resize(static_cast<size_t>(highest) + 1);
  data.special.resize(data.bytes.size());
  data.present.resize(data.bytes.size());
  for (const auto& [token, value] : json.items()) {
    const auto id = value.get<int32_t>();
    if (data.present[static_cast<size_t>(id)] != 0) fail("{}: id {} is given twice", path.string(), id);
    data.present[static_cast<size_t>(id)] = 1;
    id_of[token] = id;
    std::string bytes;
    // A token outside the visible characters can only be a special one: its own text.
    data.bytes[static_cast<size_t>(id)] = to_bytes(token, bytes) ? bytes : token;
  }
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const auto found = id_of.find(to_visible(std::string(1, static_cast<char>(byte))));
    if (found == id_of.end())
      fail("{}: has no token for byte 0x{:02x}, so it is no byte-level vocabulary", path.string(), byte);
    data.byte_ids[byte] = found->second;
  }
}

void read_merges(const std::filesystem::path& path, Tokenizer::Data& data,
                 const std::unordered_map<std::string, int32_t>& id_of) {
  const MappedFile file(path);
  const std::string_view text = file.text();
  int64_t line_number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    ++line_number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || (line_number == 1 && line.starts_with("#version"))) continue;
    const size_t space = line.find(' ');
    if (space == std::string_view::npos || space == 0 || space + 1 == line.size() ||
        line.find(' ', space + 1) != std::string_view::npos)
      fail("{}:{}: must be two tokens with one space between them", path.string(), line_number);
    const std::string left(line.substr(0, space));
    const std::string right(line.substr(space + 1));
    for (const std::string& token : {left, right, left + right})
      if (!id_of.contains(token)) fail("{}:{}: '{}' is not in vocab.json", path.string(), line_number, token);
    data.merges.emplace_back(id_of.at(left), id_of.at(right));
  }
}

/// The texts of bos, eos, pad and unk, from special_tokens_map.json (plain text or an object with "content").
std::map<std::string, std::string> read_special_tokens(const std::filesystem::path& path) {
  std::map<std::string, std::string> texts;
  const Json json = read_json_file(path);
  if (!json.is_object()) fail("{}: must be an object", path.string());
  for (const char* role : {"bos_token", "eos_token", "pad_token", "unk_token"}) {
    if (!json.contains(role) || json[role].is_null()) continue;
    const Json& value = json[role].is_object() ? json[role].value("content", Json()) : json[role];
    if (!value.is_string()) fail("{}: {} is not text", path.string(), role);
    texts[role] = value.get<std::string>();
  }
  return texts;
}

}  // namespace

Tokenizer Tokenizer::load(const std::filesystem::path& directory) {
  if (!std::filesystem::is_directory(directory))
    fail("{}: there is no such tokenizer directory (vocab.json and merges.txt)", directory.string());
  auto data = std::make_unique<Data>();
  std::unordered_map<std::string, int32_t> id_of;
  read_vocabulary(directory / "vocab.json", *data, id_of);
  read_merges(directory / "merges.txt", *data, id_of);

  std::map<std::string, std::string> texts;
  if (const std::filesystem::path path = directory / "special_tokens_map.json"; std::filesystem::exists(path)) {
    texts = read_special_tokens(path);
  } else if (id_of.contains("<|endoftext|>")) {
    texts = {{"bos_token", "<|endoftext|>"}, {"eos_token", "<|endoftext|>"}};
  } else {
    texts = {{"bos_token", "</s>"}, {"eos_token", "</s>"}, {"pad_token", "<pad>"}, {"unk_token", "</s>"}};
  }
  const auto id_for = [&](const char* role, int32_t otherwise) {
    const auto text = texts.find(role);
    if (text == texts.end()) return otherwise;
    const auto id = id_of.find(text->second);
    if (id == id_of.end()) fail("{}: vocab.json has no '{}', which is its {}", directory.string(), text->second, role);
    data->special[static_cast<size_t>(id->second)] = 1;
    data->bytes[static_cast<size_t>(id->second)] = text->second;
    data->special_strings.emplace_back(text->second, id->second);
    return id->second;
  };
  data->eos_id = id_for("eos_token", 2);
  data->bos_id = id_for("bos_token", data->eos_id);
  data->pad_id = id_for("pad_token", data->eos_id);
  id_for("unk_token", data->eos_id);
  if (texts.contains("unk_token")) data->unk = texts["unk_token"];
  std::sort(data->special_strings.begin(), data->special_strings.end(), [](const auto& a, const auto& b) {
    return a.first.size() != b.first.size() ? a.first.size() > b.first.size() : a.first < b.first;
  });
  data->special_strings.erase(std::unique(data->special_strings.begin(), data->special_strings.end()),
                              data->special_strings.end());
  data->finish();
  return Tokenizer(std::move(data));
}

void Tokenizer::save(const std::filesystem::path& directory) const {
  // nlohmann's objects are sorted by key; a vocabulary is read by people in the order of its ids.
  nlohmann::ordered_json vocabulary = nlohmann::ordered_json::object();
  std::vector<std::string> names(data_->bytes.size());
  for (size_t id = 0; id < names.size(); ++id) {
    if (data_->present[id] == 0) continue;
    names[id] = data_->special[id] != 0 ? data_->bytes[id] : to_visible(data_->bytes[id]);
    vocabulary[names[id]] = id;
  }
  write_file_atomically(directory / "vocab.json", vocabulary.dump());
  std::string merges = "#version: 0.2\n";
  for (const auto& [left, right] : data_->merges)
    merges += names[static_cast<size_t>(left)] + " " + names[static_cast<size_t>(right)] + "\n";
  write_file_atomically(directory / "merges.txt", merges);
  const Json special = {{"bos_token", data_->bytes[static_cast<size_t>(data_->bos_id)]},
                        {"eos_token", data_->bytes[static_cast<size_t>(data_->eos_id)]},
                        {"pad_token", data_->bytes[static_cast<size_t>(data_->pad_id)]},
                        {"unk_token", data_->unk}};
  write_json_file(directory / "special_tokens_map.json", special);
  Json config = special;
  config["tokenizer_class"] = "GPT2Tokenizer";
  config["add_bos_token"] = true;
  config["add_prefix_space"] = false;
  config["errors"] = "replace";
  config["clean_up_tokenization_spaces"] = false;
  write_json_file(directory / "tokenizer_config.json", config);
}

}  // namespace cbtm
