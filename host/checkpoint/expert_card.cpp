#include "cbtm/checkpoint/expert_card.h"

#include <algorithm>

#include "cbtm/base/content_hash.h"
#include "cbtm/base/error.h"

namespace cbtm {
namespace {

constexpr const char* kFileName = "expert.json";

/// Checked access to the values of one card.
class CardReader {
 public:
  CardReader(const Json& json, const std::filesystem::path& path) : json_(json), path_(path) {}

  std::string text(const char* key) const {
    const Json* value = find(key);
    if (value == nullptr) return "";
    if (!value->is_string()) wrong(key, "text");
    return value->get<std::string>();
  }
  int64_t integer(const char* key, int64_t otherwise) const {
    const Json* value = find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_number_integer()) wrong(key, "a whole number");
    return value->get<int64_t>();
  }
  Json object(const char* key) const {
    const Json* value = find(key);
    if (value == nullptr) return nullptr;
    if (!value->is_object()) wrong(key, "an object");
    return *value;
  }
  std::vector<std::string> texts(const char* key) const {
    std::vector<std::string> list;
    const Json* value = find(key);
    if (value == nullptr) return list;
    if (!value->is_array()) wrong(key, "a list of words");
    for (const Json& word : *value) {
      if (!word.is_string()) wrong(key, "a list of words");
      list.push_back(word.get<std::string>());
    }
    return list;
  }

 private:
  const Json* find(const char* key) const {
    const auto found = json_.find(key);
    return found == json_.end() || found->is_null() ? nullptr : &*found;
  }
  [[noreturn]] void wrong(const char* key, const char* wanted) const {
    fail("{}: '{}' must be {}; the file is damaged: restore it, or train the model again with --redo", path_.string(),
         key, wanted);
  }

  const Json& json_;
  const std::filesystem::path& path_;
};

}  // namespace

int64_t ExpertCard::sequence_length(int64_t otherwise) const {
  if (!settings.is_object()) return otherwise;
  const auto found = settings.find("sequence_length");
  if (found == settings.end() || !found->is_number_integer() || found->get<int64_t>() < 1) return otherwise;
  return found->get<int64_t>();
}

std::optional<ExpertCard> read_expert_card(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / kFileName;
  if (!std::filesystem::exists(path)) return std::nullopt;
  const Json json = read_json_file(path);
  if (!json.is_object()) fail("{}: must hold a JSON object; restore it, or train the model again", path.string());
  const CardReader read(json, path);
  ExpertCard card{.kind = read.text("kind"),
                  .settings = read.object("settings"),
                  .inputs = read.object("inputs"),
                  .training = read.object("training"),
                  .command = read.text("command"),
                  .tokenizer_hash = read.text("tokenizer_hash"),
                  .seed_hash = read.text("seed_hash"),
                  .router_hash = read.text("router_hash"),
                  .cluster = read.integer("cluster", -1),
                  .clusters = read.integer("clusters", 0),
                  .top_terms = read.texts("top_terms"),
                  .snapshot_step = read.integer("snapshot_step", -1),
                  .snapshot_tokens = read.integer("snapshot_tokens", 0),
                  .files = read.object("files")};
  return card;
}

void write_expert_card(const std::filesystem::path& directory, const ExpertCard& card) {
  Json json = {{"format", 1}, {"kind", card.kind}, {"settings", card.settings}};
  const auto add_text = [&](const char* key, const std::string& text) {
    if (!text.empty()) json[key] = text;
  };
  const auto add_object = [&](const char* key, const Json& object) {
    if (object.is_object()) json[key] = object;
  };
  add_text("command", card.command);
  add_text("tokenizer_hash", card.tokenizer_hash);
  add_text("seed_hash", card.seed_hash);
  add_text("router_hash", card.router_hash);
  add_object("inputs", card.inputs);
  add_object("training", card.training);
  add_object("files", card.files);
  if (card.cluster >= 0) {
    json["cluster"] = card.cluster;
    json["clusters"] = card.clusters;
    json["top_terms"] = card.top_terms;
  }
  if (card.snapshot_step >= 0) {
    json["snapshot_step"] = card.snapshot_step;
    json["snapshot_tokens"] = card.snapshot_tokens;
  }
  write_json_file(directory / kFileName, json);
}

std::vector<std::string> weight_files(const std::filesystem::path& directory) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json")) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

bool verify_weights(const std::filesystem::path& directory, const std::optional<ExpertCard>& card) {
  if (!card || !card->files.is_object() || card->files.empty()) return false;
  bool verified = false;
  for (const auto& [name, hash] : card->files.items()) {
    if (name.find('/') != std::string::npos || name == "..")
      fail("{}: 'files' names '{}', which is no file of this directory", (directory / kFileName).string(), name);
    verified = verify_content(directory, name, card->files);
  }
  return verified;
}

}  // namespace cbtm
