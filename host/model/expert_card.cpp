#include "cbtm/model/expert_card.h"

#include <algorithm>

#include "cbtm/base/content_hash.h"
#include "cbtm/base/error.h"
#include "cbtm/base/hash.h"

namespace cbtm {
namespace {

constexpr const char* kFileName = "expert.json";
constexpr const char* kHashKey = "card_hash";

/// Hash of the card without the key that holds it.
std::string hash_of_card(Json card) {
  card.erase(kHashKey);
  return hash_hex(card.dump(-1, ' ', false, Json::error_handler_t::replace));
}

}  // namespace

int64_t ExpertCard::sequence_length(int64_t otherwise) const {
  if (!settings.is_object()) return otherwise;
  const auto found = settings.find("sequence_length");
  if (found == settings.end() || !found->is_number_integer() || found->get<int64_t>() < 1) return otherwise;
  return found->get<int64_t>();
}

bool verify_expert_card(const Json& card, const std::filesystem::path& file) {
  if (!content_verification() || !card.is_object() || !card.contains(kHashKey)) return false;
  if (card[kHashKey] != hash_of_card(card))
    fail(
        "{}: was changed after cbtm wrote it (its contents do not match its card_hash); restore it, train the model "
        "again with --redo, or pass --no-verify to use it as it is",
        file.string());
  return true;
}

std::optional<ExpertCard> read_expert_card(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / kFileName;
  if (!std::filesystem::exists(path)) return std::nullopt;
  const Json json = read_json_file(path);
  const JsonReader read(json, path.string(), "restore the file, or train the model again with --redo");
  read.as_object();
  verify_expert_card(json, path);
  const auto object = [&](const char* key) { return read.has(key) ? read.object(key).json() : Json(); };
  ExpertCard card;
  card.kind = read.text_or("kind", "");
  card.settings = object("settings");
  card.inputs = object("inputs");
  card.training = object("training");
  card.command = read.text_or("command", "");
  card.tokenizer_hash = read.text_or("tokenizer_hash", "");
  card.seed_hash = read.text_or("seed_hash", "");
  card.router_hash = read.text_or("router_hash", "");
  card.cluster = read.integer_or("cluster", -1, 0);
  card.clusters = read.integer_or("clusters", 0, 0);
  card.top_terms = read.has("top_terms") ? read.texts("top_terms") : std::vector<std::string>();
  card.snapshot_step = read.integer_or("snapshot_step", -1, 0);
  card.snapshot_tokens = read.integer_or("snapshot_tokens", 0, 0);
  card.weights_hash = read.text_or("weights_hash", "");
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
  add_text("weights_hash", card.weights_hash);
  add_object("inputs", card.inputs);
  add_object("training", card.training);
  if (card.cluster >= 0) {
    json["cluster"] = card.cluster;
    json["clusters"] = card.clusters;
    json["top_terms"] = card.top_terms;
  }
  if (card.snapshot_step >= 0) {
    json["snapshot_step"] = card.snapshot_step;
    json["snapshot_tokens"] = card.snapshot_tokens;
  }
  json[kHashKey] = hash_of_card(json);
  write_json_file(directory / kFileName, json);
}

}  // namespace cbtm
