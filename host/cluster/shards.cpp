#include "cluster/shards.h"

#include <fmt/format.h>

#include <algorithm>

#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"
#include "cbtm/cluster/cluster_corpus.h"
#include "cbtm/dataset/indexed_dataset.h"
#include "cbtm/run/run_directory.h"

namespace cbtm {

const char* split_name(Split split) {
  switch (split) {
    case Split::train: return "train";
    case Split::valid: return "valid";
    case Split::tune: return "tune";
  }
  return "?";
}

ShardWriter::ShardWriter(const std::filesystem::path& directory, int64_t clusters, const Tokenizer& tokenizer)
    : directory_(directory), clusters_(clusters), vocab_size_(tokenizer.vocab_size()) {
  for (int64_t cluster = 0; cluster < clusters; ++cluster)
    for (const Split split : kSplits) {
      const std::string prefix = directory / RunDirectory::cluster_name(cluster) / split_name(split);
      Part part{.index_path = prefix + ".idx"};
      part.tokens_file = files_.add(prefix + ".bin");
      part.documents_file = files_.add(prefix + ".documents.jsonl");
      parts_.push_back(std::move(part));
    }
}

void ShardWriter::add(int32_t cluster, Split split, const std::string& document_id, std::span<const int32_t> ids) {
  Part& part = parts_[static_cast<size_t>(cluster) * kSplits.size() + static_cast<size_t>(split)];
  files_.append(part.tokens_file, indexed_dataset_tokens(ids, vocab_size_));
  files_.append(part.documents_file, Json{{"id", document_id}, {"tokens", ids.size()}}.dump() + "\n");
  part.lengths.push_back(static_cast<int32_t>(ids.size()));
  part.tokens += static_cast<int64_t>(ids.size());
}

std::vector<ShardSize> ShardWriter::sizes() const {
  std::vector<ShardSize> sizes;
  for (int64_t cluster = 0; cluster < clusters_; ++cluster) {
    const auto part = [&](Split split) -> const Part& {
      return parts_[static_cast<size_t>(cluster) * kSplits.size() + static_cast<size_t>(split)];
    };
    const auto documents = [&](Split split) { return static_cast<int64_t>(part(split).lengths.size()); };
    sizes.push_back({.train_documents = documents(Split::train),
                     .train_tokens = part(Split::train).tokens,
                     .valid_documents = documents(Split::valid),
                     .valid_tokens = part(Split::valid).tokens,
                     .tune_documents = documents(Split::tune),
                     .tune_tokens = part(Split::tune).tokens});
  }
  return sizes;
}

void ShardWriter::commit() {
  for (Part& part : parts_) {
    files_.append(files_.add(part.index_path), indexed_dataset_index(part.lengths, vocab_size_));
    part.lengths = {};
  }
  files_.finish(directory_);
}

namespace {

/// "shard 3", "shards 0, 2 and 7", "shards 0, 1, 2, 3 and 12 more".
std::string name_shards(const std::vector<int64_t>& shards) {
  constexpr size_t kNamed = 8;
  if (shards.size() == 1) return fmt::format("shard {}", shards.front());
  const size_t named = shards.size() > kNamed ? kNamed / 2 : shards.size() - 1;
  std::string text = "shards ";
  for (size_t i = 0; i < named; ++i) text += fmt::format("{}{}", i == 0 ? "" : ", ", shards[i]);
  return text + (shards.size() > kNamed ? fmt::format(" and {} more", shards.size() - named)
                                        : fmt::format(" and {}", shards.back()));
}

/// Those whose number of training tokens is in [least, limit).
std::vector<int64_t> shards_within(std::span<const ShardSize> sizes, int64_t least, int64_t limit) {
  std::vector<int64_t> shards;
  for (size_t j = 0; j < sizes.size(); ++j)
    if (const int64_t tokens = sizes[j].train_tokens; least <= tokens && tokens < limit)
      shards.push_back(static_cast<int64_t>(j));
  return shards;
}

}  // namespace

std::string empty_shards(std::span<const ShardSize> sizes) {
  const std::vector<int64_t> empty = shards_within(sizes, 0, 1);
  if (empty.empty()) return "";
  return fmt::format(
      "{} of {} would hold nothing to train on: no training document of the corpus belongs to {}; use a smaller --k "
      "(at most "
      "{}), with k-means also --balance-shards, or a larger corpus",
      name_shards(empty), sizes.size(), empty.size() == 1 ? "it" : "them", sizes.size() - empty.size());
}

void check_shards(std::span<const ShardSize> sizes, bool allow_empty) {
  // Less than a batch of the smallest models.
  constexpr int64_t kFewTokens = 512;
  if (const std::string empty = empty_shards(sizes); !empty.empty()) {
    if (!allow_empty) fail("{}", empty);
    warn(empty);
  }
  const std::vector<int64_t> few = shards_within(sizes, 1, kFewTokens);
  if (few.empty()) return;
  int64_t least = kFewTokens;
  for (const int64_t shard : few) least = std::min(least, sizes[static_cast<size_t>(shard)].train_tokens);
  warn(
      fmt::format("{} of {} hold{} fewer than {} training tokens (the smallest {}): an expert reads the same few "
                  "documents over and over; a smaller --k or a larger corpus gives more",
                  name_shards(few), sizes.size(), few.size() == 1 ? "s" : "", kFewTokens, least));
}

}  // namespace cbtm
