#include "cbtm/run/cluster_manifest.h"

#include <fmt/format.h>

#include <cmath>
#include <optional>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/content_hash.h"
#include "cbtm/base/error.h"
#include "cbtm/base/file_lock.h"
#include "cbtm/base/hash.h"
#include "cbtm/run/router_files.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;

constexpr const char* kRemedy = "the file is damaged: restore it, or cluster again with --redo";

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr int64_t kCountMax = int64_t{1} << 48;  // more is damage, and sums of them must not overflow

int64_t count_of(const JsonReader& read, const char* key) { return read.integer_or(key, -1, 0, kCountMax); }

ShardSize parse_size(const JsonReader& read) {
  // Required are those that every reader uses.
  return {.train_documents = read.integer("train_documents", 0, kCountMax),
          .train_tokens = read.integer("train_tokens", 0, kCountMax),
          .valid_documents = read.integer("valid_documents", 0, kCountMax),
          .valid_tokens = read.integer_or("valid_tokens", 0, 0, kCountMax),
          .tune_documents = read.integer("tune_documents", 0, kCountMax),
          .tune_tokens = read.integer_or("tune_tokens", 0, 0, kCountMax)};
}

Json size_json(const ShardSize& size) {
  return {{"train_documents", size.train_documents}, {"train_tokens", size.train_tokens},
          {"valid_documents", size.valid_documents}, {"valid_tokens", size.valid_tokens},
          {"tune_documents", size.tune_documents},   {"tune_tokens", size.tune_tokens}};
}

std::vector<MapDocument> parse_map(const JsonReader& list) {
  constexpr double kFarthest = 1e18;
  std::vector<MapDocument> map;
  for (size_t i = 0; i < list.size(); ++i) {
    const JsonReader entry = list.item(i);
    if (entry.as_list().size() != 3) entry.refuse("is not a list of x, y and a cluster");
    map.push_back({entry.item(0).as_number(-kFarthest, kFarthest), entry.item(1).as_number(-kFarthest, kFarthest),
                   entry.item(2).as_integer(0, kCountMax)});
  }
  return map;
}

bool same_contents(const fs::path& a, const fs::path& b) {
  return fs::exists(a) && fs::exists(b) && fs::file_size(a) == fs::file_size(b) && hash_file_hex(a) == hash_file_hex(b);
}

}  // namespace

void publish_clusters(const RunDirectory& run) {
  const auto is_current = [&] {
    return same_router(run.router(), run.shards_router()) &&
           same_contents(run.clusters_json(), run.shards_clusters_json());
  };
  if (is_current()) return;
  const FileLock lock(run.root() / ".run.lock");
  recover_directory(run.router());
  if (!same_router(run.router(), run.shards_router())) {
    // A damaged original must not replace a good copy.
    const Json clusters = read_json_file(run.shards_clusters_json());
    if (const auto hashes = clusters.find("files"); hashes != clusters.end())
      for (const auto& [name, hash] : hashes->items())
        if (name.starts_with("router/")) verify_content(run.shards(), name, *hashes);
    copy_router(run.shards_router(), run.router());
  }
  if (!same_contents(run.clusters_json(), run.shards_clusters_json())) {
    check_writable(run.clusters_json(), OutputKind::json);
    write_json_file(run.clusters_json(), read_json_file(run.shards_clusters_json()));
  }
}

int64_t ClusterManifest::train_tokens() const {
  int64_t tokens = 0;
  for (const ShardSize& size : sizes) tokens += size.train_tokens;
  return tokens;
}

ClusterManifest parse_cluster_manifest(const Json& json, const std::string& file) {
  constexpr int64_t kClustersMax = 1'000'000;
  const JsonReader read(json, file, kRemedy);
  const JsonReader sizes = read.list("sizes"), terms = read.list("top_terms");
  const auto value = [&](const char* key) { return read.has(key) ? read.at(key).json() : Json(); };
  ClusterManifest manifest;
  manifest.clusters = read.integer_or("clusters", static_cast<int64_t>(sizes.size()), 1, kClustersMax);
  // Older files name no clustering: it was k-means.
  const bool plain = value("settings").is_object() && value("settings").value("balanced_fit", Json(true)) == false;
  manifest.clustering = read.text_or("clustering", plain ? "unbalanced" : "balanced");
  manifest.router = read.text_or("router", "tfidf");
  manifest.vocab_size = read.integer_or("vocab_size", -1, 1);
  manifest.router_hash = read.text_or("router_hash", "");
  manifest.tokenizer_hash = read.text_or("tokenizer_hash", "");
  manifest.documents = count_of(read, "documents");
  manifest.documents_without_words = count_of(read, "documents_without_words");
  manifest.label_objective = read.number_or("label_objective", kNan);
  manifest.balance = read.number_or("balance", kNan);
  manifest.valid_fraction = read.number_or("valid_fraction", kNan);
  manifest.tune_fraction = read.number_or("tune_fraction", kNan);
  manifest.fit_documents = count_of(read, "fit_documents");
  manifest.fit_documents_without_words = count_of(read, "fit_documents_without_words");
  manifest.terms = count_of(read, "terms");
  manifest.dimensions = count_of(read, "dimensions");
  manifest.svd_iterations = count_of(read, "svd_iterations");
  manifest.objective = read.number_or("objective", kNan);
  manifest.duality_gap = read.number_or("duality_gap", kNan);
  manifest.map = read.has("map") ? parse_map(read.list("map")) : std::vector<MapDocument>();
  manifest.corpus = value("corpus");
  manifest.files = value("files");
  manifest.settings = value("settings");
  manifest.inputs = value("inputs");
  manifest.command = read.text_or("command", "");
  const auto count = static_cast<size_t>(manifest.clusters);
  if (sizes.size() != count) sizes.refuse(fmt::format("is not a list of {} clusters", count));
  if (terms.size() != count) terms.refuse(fmt::format("has {} items, but 'sizes' has {}", terms.size(), sizes.size()));
  for (size_t i = 0; i < count; ++i) {
    manifest.sizes.push_back(parse_size(sizes.item(i)));
    manifest.top_terms.push_back(terms.item(i).as_texts());
  }
  if (read.has("domains")) {
    const JsonReader domains = read.list("domains");
    if (domains.size() != count)
      domains.refuse(fmt::format("has {} items, but 'sizes' has {}", domains.size(), sizes.size()));
    for (size_t i = 0; i < count; ++i) manifest.domains.push_back(domains.item(i).as_texts());
  }
  if (read.has("objectives"))
    for (size_t i = 0; i < read.list("objectives").size(); ++i)
      manifest.objectives.push_back(read.list("objectives").item(i).as_number());
  return manifest;
}

Json cluster_manifest_json(const ClusterManifest& manifest) {
  Json json = {
      {"format", 1}, {"clusters", manifest.clusters}, {"top_terms", manifest.top_terms}, {"sizes", Json::array()}};
  for (const ShardSize& size : manifest.sizes) json["sizes"].push_back(size_json(size));
  const auto add_count = [&](const char* key, int64_t count) {
    if (count >= 0) json[key] = count;
  };
  const auto add_number = [&](const char* key, double number) {
    if (!std::isnan(number)) json[key] = number;
  };
  const auto add_text = [&](const char* key, const std::string& text) {
    if (!text.empty()) json[key] = text;
  };
  const auto add_value = [&](const char* key, const Json& value) {
    if (!value.is_null()) json[key] = value;
  };
  add_text("clustering", manifest.clustering);
  add_text("router", manifest.router);
  if (!manifest.domains.empty()) json["domains"] = manifest.domains;
  add_count("vocab_size", manifest.vocab_size);
  add_text("router_hash", manifest.router_hash);
  add_text("tokenizer_hash", manifest.tokenizer_hash);
  add_count("documents", manifest.documents);
  add_count("documents_without_words", manifest.documents_without_words);
  add_number("label_objective", manifest.label_objective);
  add_number("balance", manifest.balance);
  add_number("valid_fraction", manifest.valid_fraction);
  add_number("tune_fraction", manifest.tune_fraction);
  add_count("fit_documents", manifest.fit_documents);
  add_count("fit_documents_without_words", manifest.fit_documents_without_words);
  add_count("terms", manifest.terms);
  add_count("dimensions", manifest.dimensions);
  add_count("svd_iterations", manifest.svd_iterations);
  add_number("objective", manifest.objective);
  if (!manifest.objectives.empty()) json["objectives"] = manifest.objectives;
  add_number("duality_gap", manifest.duality_gap);
  if (!manifest.map.empty()) json["map"] = Json::array();
  for (const MapDocument& document : manifest.map) json["map"].push_back({document.x, document.y, document.cluster});
  add_value("corpus", manifest.corpus);
  add_value("files", manifest.files);
  add_value("settings", manifest.settings);
  add_value("inputs", manifest.inputs);
  add_text("command", manifest.command);
  return json;
}

ClusterManifest read_clusters(const RunDirectory& run) {
  recover_directory(run.shards());
  const bool has_set = fs::exists(run.shards_clusters_json());
  if (!has_set && !fs::exists(run.clusters_json()))
    fail(
        "{}: holds no clusters.json, so there are no shards to train on; run cbtm cluster --corpus ... --run {} first, "
        "or name another --run",
        run.root().string(), run.root().string());
  const fs::path path = has_set ? run.shards_clusters_json() : run.clusters_json();
  const Json json = read_json_file(path);
  const JsonReader read(json, path.string(), kRemedy);
  for (const char* key : {"clusters", "vocab_size", "router_hash", "tokenizer_hash"}) read.at(key);  // must be there
  ClusterManifest clusters = parse_cluster_manifest(json, path.string());
  if (has_set) publish_clusters(run);
  return clusters;
}

namespace {

constexpr const char* kShardSuffixes[] = {".bin", ".idx", ".documents.jsonl"};

std::string shard_file(int64_t cluster, const std::string& split, const char* suffix) {
  return RunDirectory::cluster_name(cluster) + "/" + split + suffix;
}

}  // namespace

Json shard_hashes(const fs::path& directory, int64_t clusters) {
  std::vector<std::string> names;
  for (int64_t cluster = 0; cluster < clusters; ++cluster)
    for (const char* split : {"train", "valid", "tune"})
      for (const char* suffix : kShardSuffixes) names.push_back(shard_file(cluster, split, suffix));
  for (const std::string& name : router_files(directory / "router")) names.push_back("router/" + name);
  return content_hashes(directory, names);
}

void verify_shard(const RunDirectory& run, const ClusterManifest& clusters, int64_t cluster, const std::string& split) {
  if (clusters.files.is_null()) return;
  for (const char* suffix : kShardSuffixes)
    verify_content(run.shards(), shard_file(cluster, split, suffix), clusters.files);
}

std::string shard_training_hash(const RunDirectory& run, const ClusterManifest& clusters, int64_t cluster) {
  std::string text;
  for (const char* suffix : {".bin", ".idx"}) {
    const std::string name = shard_file(cluster, "train", suffix);
    const Json& files = clusters.files;
    const auto entry = files.is_object() ? files.find(name) : files.end();
    if (entry != files.end() && entry->is_object() && entry->contains("hash") && (*entry)["hash"].is_string())
      text += (*entry)["hash"].get<std::string>();
    else
      text += block_hash_hex(run.shards() / name);
  }
  return text;
}

}  // namespace cbtm
