#include "cluster/shards.h"

#include <fmt/format.h>

#include "cbtm/base/atomic_output.h"
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

struct ShardWriter::Part {
  Part(const std::filesystem::path& directory, Split split, int64_t vocab_size)
      : tokens(directory / split_name(split), vocab_size),
        documents(directory / (std::string(split_name(split)) + ".documents.jsonl")) {}
  IndexedDatasetWriter tokens;
  AtomicFile documents;
};

ShardWriter::ShardWriter(const std::filesystem::path& directory, int64_t clusters, const Tokenizer& tokenizer)
    : clusters_(clusters) {
  for (int64_t cluster = 0; cluster < clusters; ++cluster)
    for (const Split split : kSplits)
      parts_.push_back(
          std::make_unique<Part>(directory / RunDirectory::cluster_name(cluster), split, tokenizer.vocab_size()));
}
ShardWriter::~ShardWriter() = default;

void ShardWriter::add(int32_t cluster, Split split, const std::string& document_id, std::span<const int32_t> ids) {
  Part& part = *parts_[static_cast<size_t>(cluster) * kSplits.size() + static_cast<size_t>(split)];
  part.tokens.add(ids);
  part.documents.write(Json{{"id", document_id}, {"tokens", ids.size()}}.dump() + "\n");
}

Json ShardWriter::commit() {
  Json sizes = Json::array();
  for (int64_t cluster = 0; cluster < clusters_; ++cluster) {
    Json entry;
    for (const Split split : kSplits) {
      Part& part = *parts_[static_cast<size_t>(cluster) * kSplits.size() + static_cast<size_t>(split)];
      entry[std::string(split_name(split)) + "_documents"] = part.tokens.sequences();
      entry[std::string(split_name(split)) + "_tokens"] = part.tokens.tokens();
      part.tokens.commit();
      part.documents.commit();
    }
    sizes.push_back(entry);
  }
  return sizes;
}

}  // namespace cbtm
