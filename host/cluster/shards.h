#pragma once

#include <array>
#include <filesystem>
#include <span>
#include <vector>

#include "cbtm/corpus/corpus.h"
#include "cbtm/run/cluster_manifest.h"
#include "cbtm/tokenizer/tokenizer.h"
#include "cluster/growing_files.h"

namespace cbtm {

/// "train", "valid", "tune".
const char* split_name(Split split);
inline constexpr std::array kSplits = {Split::train, Split::valid, Split::tune};

/// Writes the datasets of all shards under `directory`: NNN/train.bin, .idx and .documents.jsonl, and so on for each
/// split. Documents are tokens of the text, closed by eos. Any number of clusters: one file is open at a time, and what
/// waits to be written is bounded (see GrowingFiles), but for 4 bytes for each document.
class ShardWriter {
 public:
  ShardWriter(const std::filesystem::path& directory, int64_t clusters, const Tokenizer& tokenizer);
  ShardWriter(const ShardWriter&) = delete;
  void add(int32_t cluster, Split split, const std::string& document_id, std::span<const int32_t> ids);
  /// Documents and tokens of each split, one entry per cluster.
  std::vector<ShardSize> sizes() const;
  /// Completes all files and makes them durable; the directory is put in place by the caller.
  void commit();

 private:
  struct Part {
    size_t tokens_file = 0, documents_file = 0;
    std::filesystem::path index_path;
    std::vector<int32_t> lengths;  ///< of each document, in tokens
    int64_t tokens = 0;
  };
  std::filesystem::path directory_;
  int64_t clusters_;
  int64_t vocab_size_;
  GrowingFiles files_;
  std::vector<Part> parts_;  ///< [clusters, splits]
};

/// Throws Error for empty_shards(), or warns of them if they are allowed; warns of shards too short to learn from.
void check_shards(std::span<const ShardSize> sizes, bool allow_empty);

}  // namespace cbtm
