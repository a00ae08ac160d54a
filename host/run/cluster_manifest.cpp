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

void check_clusters(const Json& clusters, const std::string& file) {
  const JsonReader read(clusters, file, "the file is damaged: restore it, or cluster again with --redo");
  constexpr int64_t kClustersMax = 1'000'000;
  constexpr int64_t kCountMax = int64_t{1} << 48;  // more is damage, and sums of them must not overflow
  const auto count = static_cast<size_t>(read.integer("clusters", 1, kClustersMax));
  read.integer("vocab_size", 1);
  read.text("router_hash");
  read.text("tokenizer_hash");
  const JsonReader sizes = read.list("sizes");
  const JsonReader terms = read.list("top_terms");
  if (sizes.size() != count) sizes.refuse(fmt::format("is not a list of {} clusters", count));
  if (terms.size() != count) terms.refuse(fmt::format("is not a list of {} clusters", count));
  for (size_t i = 0; i < count; ++i) {
    for (const char* key : {"train_tokens", "train_documents", "valid_documents", "tune_documents"})
      sizes.item(i).integer(key, 0, kCountMax);
    terms.item(i).as_texts();
  }
  for (const char* key : {"balance", "objective", "duality_gap", "documents_without_words"}) read.number_or(key, 0);
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
  if (!same_router(run.router(), run.shards_router())) {
    // A damaged original must not replace a good copy.
    const Json clusters = read_json_file(run.shards_clusters_json());
    if (const auto hashes = clusters.find("files"); hashes != clusters.end())
      for (const char* name : kRouterFiles)
        verify_content(run.shards(), (run.shards_router().filename() / name).string(), *hashes);
    copy_router(run.shards_router(), run.router());
  }
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
  for (const char* name : kRouterFiles) names.push_back(std::string("router/") + name);
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
