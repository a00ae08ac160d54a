// Which files of a directory make the tokenizer, and writing it back (docs/formats.md, 'Tokenizer').

#include <fmt/format.h>

#include <algorithm>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/foreign_file.h"
#include "cbtm/base/json.h"
#include "cbtm/tokenizer/tokenizer.h"
#include "tokenizer/special_tokens.h"
#include "tokenizer/tokenizer_json.h"
#include "tokenizer/vocabulary.h"

namespace cbtm {
namespace {

void read_vocabulary_file(const std::filesystem::path& path, Vocabulary& vocabulary, Tokenizer::Data& data) {
  const Json json = read_json_file(path);
  read_vocabulary(JsonReader(json, path.string()), data, vocabulary);
}

void read_vocabulary_files(const std::filesystem::path& directory, Vocabulary& vocabulary, Tokenizer::Data& data) {
  read_vocabulary_file(directory / "vocab.json", vocabulary, data);
  for (uint32_t byte = 0; byte < 256; ++byte)
    if (data.byte_ids[byte] < 0)
      fail("{}: has no token for byte 0x{:02x}, so it is no byte-level vocabulary", (directory / "vocab.json").string(),
           byte);
  read_merges_file(directory / "merges.txt", vocabulary, data);
}

/// vocab.json and merges.txt beside tokenizer.json are not used, but if they are of another tokenizer, nobody knows
/// which of the two is meant.
void check_agreement(const std::filesystem::path& directory, const Vocabulary& vocabulary,
                     const Tokenizer::Data& data) {
  const std::filesystem::path vocabulary_path = directory / "vocab.json";
  const std::filesystem::path merges_path = directory / "merges.txt";
  constexpr const char* kRemedy = "remove the file that is wrong";
  if (!std::filesystem::exists(vocabulary_path)) return;
  Vocabulary other;
  Tokenizer::Data other_data;
  read_vocabulary_file(vocabulary_path, other, other_data);
  const auto is_added = [&](const std::string& token, int32_t id) {
    return std::any_of(data.added.begin(), data.added.end(),
                       [&](const AddedToken& added) { return added.id == id && added.content == token; });
  };
  for (const auto& [token, id] : other) {
    const auto found = vocabulary.find(token);
    if (found != vocabulary.end() ? found->second != id : !is_added(token, id))
      fail("{}: '{}' has id {}, but not in tokenizer.json; {}", vocabulary_path.string(), shown_text(token), id,
           kRemedy);
  }
  for (const auto& [token, id] : vocabulary)
    if (!other.contains(token) && !is_added(token, id))
      fail("{}: has no '{}', but tokenizer.json has; {}", vocabulary_path.string(), shown_text(token), kRemedy);
  if (!std::filesystem::exists(merges_path)) return;
  read_merges_file(merges_path, other, other_data);
  if (other_data.merges != data.merges)
    fail("{}: its merges are not those of tokenizer.json; {}", merges_path.string(), kRemedy);
}

/// A merge joins ordinary tokens to an ordinary one. One that makes a special token, or joins one that is more than a
/// byte, would let text turn into a special token or never be used; so would one of a token that is not written in the
/// characters that stand for bytes.
void check_merges(const std::string& file, const Tokenizer::Data& data) {
  for (size_t rank = 0; rank < data.merges.size(); ++rank) {
    const int32_t result = data.merge_results[rank];
    for (const int32_t id : {result, data.merges[rank].first, data.merges[rank].second}) {
      const auto place = static_cast<size_t>(id);
      const bool special = data.special[place] != 0 && (id == result || data.bytes[place].size() > 1);
      if (!special && data.spelling[place] == Spelling::visible) continue;
      fail("{}: merge {} {} '{}', which is {}; remove the merge, or take the token from where it is named", file,
           rank + 1, id == result ? "makes" : "joins", shown_text(token_text(data, place)),
           special ? "a special token" : "not written in the characters that stand for bytes");
    }
  }
}

}  // namespace

bool Tokenizer::is_in(const std::filesystem::path& directory) {
  return std::filesystem::exists(directory / "tokenizer.json") || std::filesystem::exists(directory / "vocab.json");
}

Tokenizer Tokenizer::load(const std::filesystem::path& directory) {
  if (!std::filesystem::is_directory(directory))
    fail("{}: there is no such tokenizer directory (tokenizer.json, or vocab.json and merges.txt)", directory.string());
  auto data = std::make_unique<Data>();
  Vocabulary vocabulary;
  AddedTokenList added(vocabulary, *data);
  const std::filesystem::path pipeline = directory / "tokenizer.json";
  const bool has_pipeline = std::filesystem::exists(pipeline);
  if (has_pipeline) {
    const Json json = read_tokenizer_json(pipeline, vocabulary, *data);
    read_added_tokens(JsonReader(json, pipeline.string()), added);
  } else {
    if (!is_in(directory))
      fail("{}: holds no tokenizer (tokenizer.json, or vocab.json and merges.txt){}", directory.string(),
           std::filesystem::exists(directory / "tokenizer.model")
               ? "; its tokenizer.model is of SentencePiece, which is not understood"
               : "");
    read_vocabulary_files(directory, vocabulary, *data);
  }
  read_special_tokens(directory, has_pipeline, vocabulary, added, *data);
  added.finish();
  check_merges((has_pipeline ? pipeline : directory / "merges.txt").string(), *data);
  if (has_pipeline) check_agreement(directory, vocabulary, *data);
  for (const std::vector<int32_t>* ids : {&data->prefix_ids, &data->suffix_ids})
    for (const int32_t id : *ids)
      if (static_cast<size_t>(id) >= data->bytes.size())
        fail("{}: post_processor puts token {} beside a text, but there are only {}", pipeline.string(), id,
             data->bytes.size());
  data->finish();
  return Tokenizer(std::move(data));
}

void Tokenizer::save(const std::filesystem::path& directory) const {
  const auto content_of = [&](int32_t id) {
    for (const AddedToken& token : data_->added)
      if (token.id == id) return token.content;
    return token_text(*data_, static_cast<size_t>(id));
  };
  const bool plain = data_->is_plain();
  Json roles = Json::object();
  const std::pair<const char*, int32_t> ids[] = {
      {"bos_token", data_->bos_id}, {"eos_token", data_->eos_id}, {"pad_token", data_->pad_id}};
  for (const auto& [role, id] : ids)
    if (plain || is_special(id)) roles[role] = content_of(id);  // naming it makes a token special
  if (!data_->unk.empty()) roles["unk_token"] = data_->unk;
  if (plain) {
    write_file_atomically(directory / "vocab.json", vocabulary_json(*data_).dump());
    const std::vector<std::string> names = token_texts(*data_);
    std::string merges = "#version: 0.2\n";
    for (const auto& [left, right] : data_->merges)
      merges += names[static_cast<size_t>(left)] + " " + names[static_cast<size_t>(right)] + "\n";
    write_file_atomically(directory / "merges.txt", merges);
  } else {
    write_file_atomically(directory / "tokenizer.json", tokenizer_json_text(*data_));
  }
  write_json_file(directory / "special_tokens_map.json", roles);
  Json config = roles;
  config["tokenizer_class"] = plain ? "GPT2Tokenizer" : "PreTrainedTokenizerFast";
  if (plain) config["add_bos_token"] = !data_->prefix_ids.empty();
  config["add_prefix_space"] = data_->pretokenization.add_prefix_space;
  config["errors"] = "replace";
  config["clean_up_tokenization_spaces"] = false;
  write_json_file(directory / "tokenizer_config.json", config);
}

}  // namespace cbtm
