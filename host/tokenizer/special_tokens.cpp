// tokenizer_config.json, special_tokens_map.json and added_tokens.json, in the order in which transformers 5 lets them
// count: tokenizer_config.json's added_tokens_decoder makes it ignore the other two.

#include "tokenizer/special_tokens.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "cbtm/base/error.h"
#include "cbtm/base/foreign_file.h"
#include "cbtm/base/progress.h"
#include "tokenizer/tokenizer_json.h"

namespace cbtm {
namespace {

/// A JSON file that may be missing.
class OptionalFile {
 public:
  explicit OptionalFile(const std::filesystem::path& path) : path_(path), json_(Json::object()) {
    is_there_ = std::filesystem::exists(path);
    if (is_there_) json_ = read_json_file(path);
    reader().as_object();
  }
  bool is_there() const { return is_there_; }
  JsonReader reader() const { return JsonReader(json_, path_.string()); }

 private:
  std::filesystem::path path_;
  Json json_;
  bool is_there_ = false;
};

/// A token that a file names, "bos_token" or one of a list.
struct NamedToken {
  AddedToken token;
  bool has_flags = false;  ///< it is an object, not only its text
  std::string where;
};

class NamedTokens {
 public:
  /// Takes every key of `file` that ends in _token, which wins over an earlier file's, and the lists of further ones.
  void read(const JsonReader& file) {
    for (const std::string& key : file.keys()) {
      const bool is_list = key == "additional_special_tokens" || key == "extra_special_tokens";
      if (!is_list && !key.ends_with("_token")) continue;
      if (!file.has(key)) {
        if (!is_list) roles_[key] = std::nullopt;
        continue;
      }
      const JsonReader value = file.at(key);
      if (key == "additional_special_tokens" && !more_.empty()) continue;  // the first file's count
      if (is_list && value.json().is_array()) {
        for (size_t i = 0; i < value.size(); ++i) more_.push_back(named(value.item(i)));
      } else if (is_list) {
        for (const std::string& name : value.keys()) more_.push_back(named(value.at(name)));
      } else if (!value.json().is_boolean()) {  // add_bos_token and the like
        roles_[key] = named(value);
      }
    }
  }
  /// Whether a file says something of this role; `token` is then the token, or nullptr for none.
  bool find(const std::string& role, const NamedToken*& token) const {
    const auto found = roles_.find(role);
    if (found == roles_.end()) return false;
    token = found->second ? &*found->second : nullptr;
    return true;
  }
  /// In the order in which transformers adds them.
  std::vector<const NamedToken*> all() const {
    static const std::vector<std::string> kFirst = {"bos_token", "eos_token", "unk_token", "sep_token",
                                                    "pad_token", "cls_token", "mask_token"};
    std::vector<const NamedToken*> tokens;
    const auto take = [&](const std::string& role) {
      const NamedToken* token = nullptr;
      if (find(role, token) && token != nullptr) tokens.push_back(token);
    };
    for (const std::string& role : kFirst) take(role);
    for (const auto& [role, token] : roles_)
      if (std::find(kFirst.begin(), kFirst.end(), role) == kFirst.end()) take(role);
    for (const NamedToken& token : more_) tokens.push_back(&token);
    return tokens;
  }

 private:
  static NamedToken named(const JsonReader& value) {
    NamedToken named;
    named.where = value.where();
    named.has_flags = value.json().is_object();
    if (named.has_flags) {
      named.token = added_token_of(value);
    } else {
      named.token.content = value.as_text();
    }
    named.token.special = true;
    if (named.token.content.empty()) value.refuse("is empty; name a token, or take the line out");
    return named;
  }

  std::map<std::string, std::optional<NamedToken>> roles_;
  std::vector<NamedToken> more_;
};

/// Tokens with the id that the file gives them: {"50257": {"content": ...}} or {"<|im_start|>": 50257}.
std::map<int64_t, NamedToken> tokens_by_id(const JsonReader& decoder) {
  std::map<int64_t, NamedToken> tokens;
  for (const std::string& key : decoder.keys()) {
    const JsonReader entry = decoder.at(key);
    if (key.empty() || key.size() > 9 || key.find_first_not_of("0123456789") != std::string::npos)
      entry.refuse("is named by something that is no token id");
    NamedToken token{added_token_of(entry.as_object()), true, entry.where()};
    token.token.id = static_cast<int32_t>(std::stoll(key));
    tokens[token.token.id] = token;
  }
  return tokens;
}

std::map<int64_t, NamedToken> tokens_by_content(const JsonReader& file, const NamedTokens& named) {
  std::set<std::string> special;
  for (const NamedToken* token : named.all()) special.insert(token->token.content);
  std::map<int64_t, NamedToken> tokens;
  for (const auto& [content, value] : file.json().items()) {
    NamedToken token;
    token.where = fmt::format("{}: '{}'", file.where(), shown_text(content));
    if (content.empty()) fail("{}: a token is empty; take it out", file.where());
    token.token.content = content;
    token.token.special = special.contains(content);
    token.token.normalized = !token.token.special;
    token.token.id = static_cast<int32_t>(JsonReader(value, token.where).as_integer(0, INT32_MAX));
    if (!tokens.emplace(token.token.id, token).second) fail("{}: id {} is given twice", file.where(), token.token.id);
  }
  return tokens;
}

/// Without tokenizer.json only the class says how text is cut; these cut it as GPT-2 does.
void check_class(const JsonReader& config) {
  const std::string name = config.text_or("tokenizer_class", "GPT2Tokenizer");
  for (const char* known : {"GPT2Tokenizer", "GPT2TokenizerFast", "CodeGenTokenizer", "CodeGenTokenizerFast"})
    if (name == known) return;
  config.at("tokenizer_class")
      .refuse(fmt::format("is '{}', which is not understood without a tokenizer.json; make one with "
                          "AutoTokenizer.from_pretrained(...).save_pretrained(...) of transformers",
                          shown_text(name)));
}

/// Adds the tokens that files list by id, then those with roles, which become special. A token with a role has the
/// flags that it is listed with, or else those that it is named with. `all_listed`: those in `added` are listed, too.
void add_tokens(const std::map<int64_t, NamedToken>& by_id, bool all_listed, const NamedTokens& named,
                AddedTokenList& added) {
  std::set<std::string> listed;
  for (const NamedToken* token : named.all())
    if (all_listed && added.find(token->token.content) != nullptr) listed.insert(token->token.content);
  for (const auto& [id, token] : by_id) {
    added.add(token.token, token.where);
    listed.insert(token.token.content);
  }
  // Of a token that is named with flags here and as text there the last counts, but the same text counts once only.
  std::set<std::string> as_text;
  for (const NamedToken* token : named.all()) {
    AddedToken with_flags = token->token;
    if (!token->has_flags && !as_text.insert(with_flags.content).second) continue;
    if (listed.contains(with_flags.content)) with_flags = *added.find(with_flags.content);
    with_flags.special = true;
    added.add(with_flags, token->where);
  }
}

/// Finds the ids of roles: of the tokens that files name, or else of tokens with usual names.
class RoleFinder {
 public:
  RoleFinder(const std::filesystem::path& directory, const NamedTokens& named, const Vocabulary& vocabulary,
             bool of_gpt2_class, AddedTokenList& added)
      : directory_(directory), named_(named), vocabulary_(vocabulary), of_gpt2_class_(of_gpt2_class), added_(added) {}

  /// -1 if a file says that there is none, or no token has one of the names.
  int32_t find(const char* role, std::initializer_list<std::string> usual_names) {
    const NamedToken* token = nullptr;
    if (named_.find(role, token)) return token == nullptr ? -1 : added_.find(token->token.content)->id;
    for (const std::string& name : usual_names)
      if (const int32_t id = usual(name, role); id >= 0) return id;
    return -1;
  }

 private:
  int32_t usual(const std::string& content, const char* role) {
    const AddedToken* known = added_.find(content);
    const auto in_vocabulary = vocabulary_.find(content);
    if (known == nullptr && in_vocabulary == vocabulary_.end()) return -1;
    AddedToken token = known != nullptr ? *known : AddedToken{.content = content, .id = in_vocabulary->second};
    if (!of_gpt2_class_) return token.id;
    // GPT-2's class names these tokens itself, and so makes them special.
    token.special = true;
    added_.add(token, fmt::format("{}: {}", directory_.string(), role));
    return token.id;
  }

  const std::filesystem::path& directory_;
  const NamedTokens& named_;
  const Vocabulary& vocabulary_;
  bool of_gpt2_class_;
  AddedTokenList& added_;
};

/// Sets the ids of the roles, and returns whether there is a bos.
bool set_roles(const NamedTokens& named, bool of_gpt2_class, const std::filesystem::path& directory, RoleFinder& finder,
               Tokenizer::Data& data) {
  data.eos_id = finder.find("eos_token", {"<|endoftext|>", "</s>"});
  if (data.eos_id < 0)
    fail("{}: no token ends a text; name one as eos_token in tokenizer_config.json", directory.string());
  const std::string eos = data.bytes[static_cast<size_t>(data.eos_id)];
  const bool like_opt = eos == "</s>";
  data.bos_id = finder.find("bos_token", {like_opt ? "</s>" : "<|endoftext|>"});
  const bool has_bos = data.bos_id >= 0;
  if (!has_bos) data.bos_id = data.eos_id;
  const NamedToken* token = nullptr;
  const bool usual_pad = !of_gpt2_class || (!named.find("eos_token", token) && !named.find("bos_token", token));
  data.pad_id = finder.find("pad_token", {usual_pad && like_opt ? "<pad>" : eos});
  if (data.pad_id < 0) data.pad_id = data.eos_id;
  if (named.find("unk_token", token)) {
    if (token != nullptr) data.unk = token->token.content;
  } else if (of_gpt2_class && usual_pad && like_opt) {
    data.unk = eos;
  }
  return has_bos;
}

}  // namespace

void read_special_tokens(const std::filesystem::path& directory, bool has_pipeline, const Vocabulary& vocabulary,
                         AddedTokenList& added, Tokenizer::Data& data) {
  const OptionalFile config_file(directory / "tokenizer_config.json");
  const OptionalFile map_file(directory / "special_tokens_map.json");
  const OptionalFile added_file(directory / "added_tokens.json");
  const JsonReader config = config_file.reader();
  if (!has_pipeline) check_class(config);
  if (config.truth_or("split_special_tokens", false))
    config.at("split_special_tokens").refuse("is true, which is not understood");

  NamedTokens named;
  named.read(config);
  if (config.has("added_tokens_decoder")) {
    add_tokens(tokens_by_id(config.object("added_tokens_decoder")), false, named, added);
  } else {
    named.read(map_file.reader());
    add_tokens(tokens_by_content(added_file.reader(), named), true, named, added);
  }
  const std::string tokenizer_class = config.text_or("tokenizer_class", "");
  const bool of_gpt2_class = !has_pipeline || tokenizer_class.starts_with("GPT2Tokenizer");
  RoleFinder finder(directory, named, vocabulary, of_gpt2_class, added);
  const bool has_bos = set_roles(named, of_gpt2_class, directory, finder, data);

  const bool like_opt = data.bytes[static_cast<size_t>(data.eos_id)] == "</s>";
  if (!has_pipeline) {
    // OPT's tokenizer puts its </s> in front; a directory without a configuration is taken for one of OPT.
    const bool add_bos = config_file.is_there() ? config.truth_or("add_bos_token", false) : like_opt;
    if (add_bos && has_bos) data.prefix_ids = {data.bos_id};
    if (config.truth_or("add_eos_token", false)) data.suffix_ids = {data.eos_id};
  } else if (config.truth_or("add_bos_token", false) && data.prefix_ids.empty()) {
    warn(
        fmt::format("{}: add_bos_token is true, but tokenizer.json's post_processor puts nothing in front of a text, "
                    "and it decides, as in transformers 5",
                    config.where()));
  }
  if (of_gpt2_class || (tokenizer_class.empty() && config.has("add_prefix_space")))
    data.pretokenization.add_prefix_space = config.truth_or("add_prefix_space", false);
}

}  // namespace cbtm
