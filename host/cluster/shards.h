#pragma once

#include <array>
#include <filesystem>
#include <memory>
#include <vector>

#include "cbtm/base/json.h"
#include "cbtm/corpus/corpus.h"
#include "cbtm/tokenizer/tokenizer.h"

namespace cbtm {

/// "train", "valid", "tune".
const char* split_name(Split split);
inline constexpr std::array kSplits = {Split::train, Split::valid, Split::tune};

/// Writes the datasets of all shards under `directory`: NNN/train.bin, .idx and .documents.jsonl, and so on for each
/// split. Documents are tokens of the text, closed by eos.
class ShardWriter {
 public:
  ShardWriter(const std::filesystem::path& directory, int64_t clusters, const Tokenizer& tokenizer);
  ~ShardWriter();
  ShardWriter(const ShardWriter&) = delete;
  void add(int32_t cluster, Split split, const std::string& document_id, std::span<const int32_t> ids);
  /// Completes all files. Per cluster: documents and tokens of each split.
  Json commit();

 private:
  struct Part;
  std::vector<std::unique_ptr<Part>> parts_;
  int64_t clusters_;
};

}  // namespace cbtm
