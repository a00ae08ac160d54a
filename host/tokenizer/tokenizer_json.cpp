// tokenizer.json: a pipeline of added tokens, normalizer, pre_tokenizer, model, post_processor and decoder. Whatever
// would change ids and is not known is refused: a wrong id is worse than none.

#include "tokenizer/tokenizer_json.h"

#include <fmt/format.h>

#include "cbtm/base/error.h"
#include "cbtm/base/foreign_file.h"
#include "cbtm/base/progress.h"

namespace cbtm {
namespace {

using Pattern = Pretokenization::Pattern;
using Digits = Pretokenization::Digits;

constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

[[noreturn]] void not_understood(const JsonReader& component, const std::string& what) {
  fail("{} is {}, which is not understood; only byte-level BPE like that of GPT-2 and OPT is read", component.where(),
       what);
}

/// The components of `key`: one, or those of a Sequence, whose list has the name `list`.
std::vector<JsonReader> components_of(const JsonReader& file, std::string_view key, std::string_view list) {
  std::vector<JsonReader> components;
  if (!file.has(key)) return components;
  std::vector<JsonReader> open = {file.object(key)};
  while (!open.empty()) {
    const JsonReader next = open.back();
    open.pop_back();
    if (next.text("type") != "Sequence") {
      components.push_back(next);
      continue;
    }
    const JsonReader parts = next.list(list);
    for (size_t i = parts.size(); i-- > 0;) open.push_back(parts.item(i));
  }
  return components;
}

void read_normalizer(const JsonReader& file) {
  for (const JsonReader& component : components_of(file, "normalizer", "normalizers"))
    not_understood(component, "'" + shown_text(component.text("type")) + "'");
}

Pattern pattern_of(const JsonReader& split) {
  const std::string behavior = split.text("behavior");
  if (behavior != "Isolated") not_understood(split, fmt::format("a Split '{}'", shown_text(behavior)));
  if (split.truth_or("invert", false)) not_understood(split, "an inverted Split");
  const JsonReader pattern = split.object("pattern");
  const std::string expression = pattern.has("Regex") ? pattern.text("Regex") : "";
  if (expression == kGpt2Pattern) return Pattern::gpt2;
  if (expression == kQwen2Pattern) return Pattern::qwen2;
  if (expression == kLlama3Pattern) return Pattern::llama3;
  not_understood(split, fmt::format("a Split by {}", expression.empty() ? "a fixed text" : shown_text(expression)));
}

Pretokenization read_pretokenizer(const JsonReader& file) {
  Pretokenization how;
  bool has_split = false;
  bool has_bytes = false;
  for (const JsonReader& component : components_of(file, "pre_tokenizer", "pretokenizers")) {
    const std::string& type = component.text("type");
    if (has_bytes) not_understood(component, fmt::format("'{}' behind ByteLevel", shown_text(type)));
    if (type == "Digits" && how.digits == Digits::as_pattern && !has_split) {
      how.digits = component.truth_or("individual_digits", false) ? Digits::each : Digits::runs;
    } else if (type == "Split" && !has_split) {
      how.pattern = pattern_of(component);
      has_split = true;
    } else if (type == "ByteLevel") {
      has_bytes = true;
      how.add_prefix_space = component.truth_or("add_prefix_space", true);
      const bool use_regex = component.truth_or("use_regex", true);
      if (has_split && (use_regex || how.add_prefix_space)) not_understood(component, "ByteLevel that splits again");
      if (!has_split) how.pattern = use_regex ? Pattern::gpt2 : Pattern::none;
    } else {
      not_understood(component, "'" + shown_text(type) + "'");
    }
  }
  if (!has_bytes)
    fail(
        "{}: its pre_tokenizer is without ByteLevel, which is not understood; only byte-level BPE like that of GPT-2 "
        "and OPT is read",
        file.where());
  return how;
}

void read_decoder(const JsonReader& file) {
  const std::vector<JsonReader> components = components_of(file, "decoder", "decoders");
  for (const JsonReader& component : components)
    if (component.text("type") != "ByteLevel" || components.size() > 1)
      not_understood(component, "'" + shown_text(component.text("type")) + "'");
  if (components.empty()) fail("{}: there is no decoder; a byte-level one (ByteLevel) is needed", file.where());
}

void read_model(const JsonReader& file, Vocabulary& vocabulary, Tokenizer::Data& data) {
  const JsonReader model = file.object("model");
  const std::string type = model.text_or("type", model.has("merges") ? "BPE" : "");
  if (type != "BPE") not_understood(model, fmt::format("of type '{}'", shown_text(type)));
  if (model.has("dropout") && model.number("dropout") != 0) not_understood(model.at("dropout"), "given");
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (!model.text_or(affix, "").empty()) not_understood(model.at(affix), "given");
  data.ignore_merges = model.truth_or("ignore_merges", false);
  read_vocabulary(model.object("vocab"), data, vocabulary);

  int missing = 0;
  for (const int32_t id : data.byte_ids) missing += id < 0 ? 1 : 0;
  if (missing > 128)
    fail("{}: only {} of the 256 bytes have a token; this is no byte-level vocabulary", model.where(), 256 - missing);
  if (missing > 0 && (model.truth_or("byte_fallback", false) || model.has("unk_token")))
    fail(
        "{}: {} of the 256 bytes have no token, and unk_token or byte_fallback stand in for them, which is not "
        "understood",
        model.where(), missing);
  if (missing > 0)
    warn(fmt::format(
        "{}: {} of the 256 bytes have no token; texts lose the characters that need them, as in transformers",
        file.where(), missing));

  const JsonReader merges = model.list("merges");
  data.merges.reserve(merges.size());
  size_t number = 0;
  for (const Json& merge : merges.json()) {
    const std::string where = fmt::format("{}: merge {}", file.where(), ++number);
    if (merge.is_string()) {
      add_merge_line(merge.get_ref<const std::string&>(), where, vocabulary, data);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      add_merge(merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>(), where, vocabulary,
                data);
    } else {
      fail("{} is {}, but must be two tokens", where, shown_json(merge));
    }
  }
}

/// The ids of a special token of a template.
std::vector<int32_t> template_ids(const JsonReader& processor, const std::string& name) {
  std::vector<int32_t> ids;
  for (const int64_t id : processor.object("special_tokens").object(name).integers("ids", 0, INT32_MAX))
    ids.push_back(static_cast<int32_t>(id));
  return ids;
}

void read_template(const JsonReader& processor, Tokenizer::Data& data) {
  const JsonReader single = processor.list("single");
  bool text_seen = false;
  for (size_t i = 0; i < single.size(); ++i) {
    const JsonReader part = single.item(i);
    if (part.has("SpecialToken")) {
      std::vector<int32_t>& ids = text_seen ? data.suffix_ids : data.prefix_ids;
      for (const int32_t id : template_ids(processor, part.object("SpecialToken").text("id"))) ids.push_back(id);
    } else if (!text_seen && part.object("Sequence").text("id") == "A") {
      text_seen = true;
    } else {
      not_understood(part, "the text a second time");
    }
  }
  if (!text_seen) not_understood(single, "a template without the text");
}

void read_post_processor(const JsonReader& file, Tokenizer::Data& data) {
  bool has_template = false;
  for (const JsonReader& component : components_of(file, "post_processor", "processors")) {
    const std::string& type = component.text("type");
    if (type == "ByteLevel") continue;  // changes offsets only
    if (has_template) not_understood(component, "a second template");
    has_template = true;
    if (type == "TemplateProcessing") {
      read_template(component, data);
    } else if (type == "RobertaProcessing" || type == "BertProcessing") {
      data.prefix_ids.push_back(static_cast<int32_t>(component.list("cls").item(1).as_integer(0, INT32_MAX)));
      data.suffix_ids.push_back(static_cast<int32_t>(component.list("sep").item(1).as_integer(0, INT32_MAX)));
    } else {
      not_understood(component, "'" + shown_text(type) + "'");
    }
  }
}

}  // namespace

AddedToken added_token_of(const JsonReader& token) {
  return {.content = token.text("content"),
          .id = -1,
          .special = token.truth_or("special", false),
          .normalized = token.truth_or("normalized", true),
          .lstrip = token.truth_or("lstrip", false),
          .rstrip = token.truth_or("rstrip", false),
          .single_word = token.truth_or("single_word", false)};
}

Json read_tokenizer_json(const std::filesystem::path& path, Vocabulary& vocabulary, Tokenizer::Data& data) {
  Json json = read_json_file(path);
  const JsonReader file(json, path.string());
  read_normalizer(file);
  data.pretokenization = read_pretokenizer(file);
  read_decoder(file);
  read_post_processor(file, data);
  read_model(file, vocabulary, data);
  return json;
}

void read_added_tokens(const JsonReader& file, AddedTokenList& added) {
  if (!file.has("added_tokens")) return;
  const JsonReader tokens = file.list("added_tokens");
  for (size_t i = 0; i < tokens.size(); ++i) {
    const JsonReader entry = tokens.item(i);
    AddedToken token = added_token_of(entry);
    token.id = static_cast<int32_t>(entry.integer("id", 0, INT32_MAX));
    added.add(token, entry.where());
  }
}

namespace {

nlohmann::ordered_json pretokenizer_json(const Pretokenization& how) {
  using Ordered = nlohmann::ordered_json;
  const bool own_pattern = how.pattern == Pattern::qwen2 || how.pattern == Pattern::llama3;
  Ordered parts = Ordered::array();
  if (how.digits != Digits::as_pattern)
    parts.push_back({{"type", "Digits"}, {"individual_digits", how.digits == Digits::each}});
  if (own_pattern)
    parts.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", how.pattern == Pattern::qwen2 ? kQwen2Pattern : kLlama3Pattern}}},
                     {"behavior", "Isolated"},
                     {"invert", false}});
  parts.push_back({{"type", "ByteLevel"},
                   {"add_prefix_space", how.add_prefix_space},
                   {"trim_offsets", true},
                   {"use_regex", how.pattern == Pattern::gpt2}});
  return parts.size() == 1 ? parts[0] : Ordered{{"type", "Sequence"}, {"pretokenizers", parts}};
}

nlohmann::ordered_json post_processor_json(const Tokenizer::Data& data) {
  using Ordered = nlohmann::ordered_json;
  if (data.prefix_ids.empty() && data.suffix_ids.empty()) return nullptr;
  Ordered names = Ordered::object();
  const auto special = [&](int32_t id, int type) {
    std::string name = token_text(data, static_cast<size_t>(id));
    for (const AddedToken& token : data.added)
      if (token.id == id) name = token.content;
    names[name] = {{"id", name}, {"ids", Ordered::array({id})}, {"tokens", Ordered::array({name})}};
    return Ordered{{"SpecialToken", {{"id", name}, {"type_id", type}}}};
  };
  const auto of = [&](int type, const char* text) {
    Ordered list = Ordered::array();
    for (const int32_t id : data.prefix_ids) list.push_back(special(id, type));
    list.push_back({{"Sequence", {{"id", text}, {"type_id", type}}}});
    for (const int32_t id : data.suffix_ids) list.push_back(special(id, type));
    return list;
  };
  const Ordered single = of(0, "A");
  Ordered pair = single;
  for (const Ordered& part : of(1, "B")) pair.push_back(part);
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", names}};
}

}  // namespace

std::string tokenizer_json_text(const Tokenizer::Data& data) {
  using Ordered = nlohmann::ordered_json;
  Ordered added = Ordered::array();
  for (const AddedToken& token : data.added)
    added.push_back({{"id", token.id},
                     {"content", token.content},
                     {"single_word", token.single_word},
                     {"lstrip", token.lstrip},
                     {"rstrip", token.rstrip},
                     {"normalized", token.normalized},
                     {"special", token.special}});
  const Ordered bytes = {
      {"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
  Ordered json = {{"version", "1.0"},
                  {"truncation", nullptr},
                  {"padding", nullptr},
                  {"added_tokens", added},
                  {"normalizer", nullptr},
                  {"pre_tokenizer", pretokenizer_json(data.pretokenization)},
                  {"post_processor", post_processor_json(data)},
                  {"decoder", bytes}};
  Ordered& model = json["model"];
  model = {{"type", "BPE"},
           {"dropout", nullptr},
           {"unk_token", nullptr},
           {"continuing_subword_prefix", nullptr},
           {"end_of_word_suffix", nullptr},
           {"fuse_unk", false},
           {"byte_fallback", false},
           {"ignore_merges", data.ignore_merges}};
  model["vocab"] = vocabulary_json(data);
  const std::vector<std::string> names = token_texts(data);
  Ordered merges = Ordered::array();
  for (const auto& [left, right] : data.merges)
    merges.push_back({names[static_cast<size_t>(left)], names[static_cast<size_t>(right)]});
  model["merges"] = std::move(merges);
  return json.dump(2) + "\n";
}

}  // namespace cbtm
