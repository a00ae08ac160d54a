#include "cbtm/model/expert_card.h"

#include <algorithm>

#include "cbtm/base/error.h"

namespace cbtm {
namespace {

constexpr const char* kFileName = "expert.json";

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
  const JsonReader read(json, path.string(), "restore the file, or train the model again with --redo");
  read.as_object();
  const auto object = [&](const char* key) { return read.has(key) ? read.object(key).json() : Json(); };
  ExpertCard card{.kind = read.text_or("kind", ""),
                  .settings = object("settings"),
                  .inputs = object("inputs"),
                  .training = object("training"),
                  .command = read.text_or("command", ""),
                  .tokenizer_hash = read.text_or("tokenizer_hash", ""),
                  .seed_hash = read.text_or("seed_hash", ""),
                  .router_hash = read.text_or("router_hash", ""),
                  .cluster = read.integer_or("cluster", -1, 0),
                  .clusters = read.integer_or("clusters", 0, 0),
                  .top_terms = read.has("top_terms") ? read.texts("top_terms") : std::vector<std::string>(),
                  .snapshot_step = read.integer_or("snapshot_step", -1, 0),
                  .snapshot_tokens = read.integer_or("snapshot_tokens", 0, 0),
                  .weights_hash = read.text_or("weights_hash", "")};
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
  write_json_file(directory / kFileName, json);
}

}  // namespace cbtm
