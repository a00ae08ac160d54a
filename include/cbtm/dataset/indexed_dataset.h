#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace cbtm {

/// Writes PREFIX.bin and PREFIX.idx, a Megatron-LM indexed dataset (docs/tokenizer.md, 'Indexed dataset') with one
/// sequence per document. Tokens are uint16 if the vocabulary is below 65,500, else int32. Both files appear whole, at
/// commit().
class IndexedDatasetWriter {
 public:
  IndexedDatasetWriter(std::filesystem::path prefix, int64_t vocab_size);
  ~IndexedDatasetWriter();
  IndexedDatasetWriter(const IndexedDatasetWriter&) = delete;

  void add(std::span<const int32_t> ids);
  int64_t sequences() const;
  int64_t tokens() const;
  void commit();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// The bytes of a sequence in the .bin file, for code that writes many datasets at once.
std::string indexed_dataset_tokens(std::span<const int32_t> ids, int64_t vocab_size);
/// The bytes of the .idx file of a dataset whose sequences have these lengths in tokens, one sequence per document.
std::string indexed_dataset_index(std::span<const int32_t> lengths, int64_t vocab_size);

/// Reads an indexed dataset, memory-mapped. Throws Error naming the file and what is wrong (magic, version, dtype,
/// sizes, offsets).
class IndexedDataset {
 public:
  explicit IndexedDataset(const std::filesystem::path& prefix);
  ~IndexedDataset();
  IndexedDataset(IndexedDataset&&) noexcept;

  int64_t sequences() const;
  int64_t tokens() const;
  int64_t length(int64_t sequence) const;
  /// The index of the first token of `sequence` within the whole file.
  int64_t first_token(int64_t sequence) const;
  /// Copies tokens [first, first + out.size()) of the whole file. The range may cross sequences.
  void read(int64_t first, std::span<int32_t> out) const;
  std::vector<int32_t> sequence(int64_t index) const;
  /// Throws Error if an id is outside [0, vocab_size). Reads the whole file once.
  void check_ids(int64_t vocab_size) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace cbtm
