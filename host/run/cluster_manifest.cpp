#include "cbtm/run/cluster_manifest.h"

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/content_hash.h"
#include "cbtm/base/error.h"
#include "cbtm/base/file_lock.h"
#include "cbtm/base/hash.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;

constexpr const char* kRouterFiles[] = {"router.json", "router.safetensors"};

void check_clusters(const Json& clusters, const std::string& where) {
  const auto check = [&](bool good, const std::string& what) {
    if (!good) fail("{}: {}; the file is damaged, cluster again with --redo", where, what);
  };
  check(clusters.is_object(), "it holds no JSON object");
  const auto holds = [&](const char* name, bool (Json::*is)() const noexcept) {
    check(clusters.contains(name) && (clusters[name].*is)(), fmt::format("'{}' is missing or of the wrong type", name));
  };
  holds("clusters", &Json::is_number_integer);
  holds("vocab_size", &Json::is_number_integer);
  holds("router_hash", &Json::is_string);
  holds("tokenizer_hash", &Json::is_string);
  holds("sizes", &Json::is_array);
  holds("top_terms", &Json::is_array);
  const auto count = clusters["clusters"].get<int64_t>();
  check(count > 0 && static_cast<int64_t>(clusters["sizes"].size()) == count &&
            static_cast<int64_t>(clusters["top_terms"].size()) == count,
        "'sizes' and 'top_terms' do not fit the number of clusters");
  for (const Json& size : clusters["sizes"])
    for (const char* key : {"train_tokens", "train_documents", "valid_documents", "tune_documents"})
      check(size.is_object() && size.contains(key) && size[key].is_number_integer() && size[key].get<int64_t>() >= 0,
            fmt::format("'sizes' lacks '{}'", key));
  for (const Json& terms : clusters["top_terms"]) {
    check(terms.is_array(), "'top_terms' must hold lists of words");
    for (const Json& term : terms) check(term.is_string(), "'top_terms' must hold lists of words");
  }
  for (const char* key : {"balance", "objective", "duality_gap", "documents_without_words"})
    check(!clusters.contains(key) || clusters[key].is_number(), fmt::format("'{}' must be a number", key));
}

bool same_contents(const fs::path& a, const fs::path& b) {
  return fs::exists(a) && fs::exists(b) && fs::file_size(a) == fs::file_size(b) && hash_file_hex(a) == hash_file_hex(b);
}

/// Whether a copy of the router is of this set; its temperature may have been tuned since.
bool same_router(const fs::path& copy, const fs::path& original) {
  return fs::exists(copy / kRouterFiles[0]) && same_contents(copy / kRouterFiles[1], original / kRouterFiles[1]);
}

void copy_router(const fs::path& from, const fs::path& to) {
  AtomicDirectory output(to);
  for (const char* name : kRouterFiles) {
    std::error_code error;
    fs::copy_file(from / name, output.path() / name, error);
    if (error) fail("{}: cannot be copied to {}: {}", (from / name).string(), to.string(), error.message());
  }
  output.commit();
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
  if (!same_router(run.router(), run.shards_router())) copy_router(run.shards_router(), run.router());
  if (!same_contents(run.clusters_json(), run.shards_clusters_json())) {
    check_writable(run.clusters_json(), OutputKind::json);
    write_json_file(run.clusters_json(), read_json_file(run.shards_clusters_json()));
  }
}

Json read_clusters(const RunDirectory& run) {
  recover_directory(run.shards());
  const bool has_set = fs::exists(run.shards_clusters_json());
  if (!has_set && !fs::exists(run.clusters_json()))
    fail(
        "{}: holds no clusters.json, so there are no shards to train on; run cbtm cluster --corpus ... --out {} first, "
        "or name another --run",
        run.root().string(), run.root().string());
  const fs::path path = has_set ? run.shards_clusters_json() : run.clusters_json();
  Json clusters = read_json_file(path);
  check_clusters(clusters, path.string());
  if (has_set) publish_clusters(run);
  return clusters;
}

int64_t train_tokens(const Json& clusters) {
  int64_t tokens = 0;
  for (const Json& size : clusters["sizes"]) tokens += size["train_tokens"].get<int64_t>();
  return tokens;
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
  return content_hashes(directory, names);
}

void verify_shard(const RunDirectory& run, const Json& clusters, int64_t cluster, const std::string& split) {
  const auto hashes = clusters.find("files");
  if (hashes == clusters.end()) return;
  for (const char* suffix : kShardSuffixes) verify_content(run.shards(), shard_file(cluster, split, suffix), *hashes);
}

std::string shard_training_hash(const RunDirectory& run, const Json& clusters, int64_t cluster) {
  const auto hashes = clusters.find("files");
  std::string text;
  for (const char* suffix : {".bin", ".idx"}) {
    const std::string name = shard_file(cluster, "train", suffix);
    if (hashes != clusters.end() && hashes->is_object() && hashes->contains(name) && (*hashes)[name].is_object() &&
        (*hashes)[name].contains("hash") && (*hashes)[name]["hash"].is_string())
      text += (*hashes)[name]["hash"].get<std::string>();
    else
      text += block_hash_hex(run.shards() / name);
  }
  return text;
}

}  // namespace cbtm
