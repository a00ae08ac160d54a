#include "cbtm/dataset/indexed_dataset.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/foreign_file.h"
#include "cbtm/base/mapped_file.h"
#include "cbtm/base/signals.h"

namespace cbtm {
namespace {

constexpr std::string_view kMagic("MMIDIDX\0\0", 9);
constexpr int64_t kSmallVocabulary = 65'500;
constexpr std::string_view kOlderMagic("TNTIDX\0\0", 8);
enum TypeCode : uint8_t { kU8 = 1, kI8 = 2, kI16 = 3, kI32 = 4, kI64 = 5, kFloatA = 6, kFloatB = 7, kU16 = 8 };

std::filesystem::path with_suffix(std::filesystem::path prefix, const char* suffix) {
  prefix += suffix;
  return prefix;
}

int64_t bytes_of_type(uint8_t code) {
  switch (code) {
    case kU8:
    case kI8: return 1;
    case kI16:
    case kU16: return 2;
    case kI32: return 4;
    case kI64: return 8;
    default: return 0;
  }
}

}  // namespace

std::string indexed_dataset_tokens(std::span<const int32_t> ids, int64_t vocab_size) {
  if (vocab_size >= kSmallVocabulary) return {reinterpret_cast<const char*>(ids.data()), ids.size() * 4};
  const std::vector<uint16_t> narrow(ids.begin(), ids.end());
  return {reinterpret_cast<const char*>(narrow.data()), narrow.size() * 2};
}

std::string indexed_dataset_index(std::span<const int32_t> lengths, int64_t vocab_size) {
  const uint64_t count = lengths.size();
  const uint64_t documents = count + 1;
  const uint64_t version = 1;
  const uint8_t code = vocab_size >= kSmallVocabulary ? kI32 : kU16;
  std::string index(kMagic);
  index.reserve(index.size() + 25 + 12 * count + 8 * documents);
  const auto add = [&](const void* data, size_t bytes) { index.append(static_cast<const char*>(data), bytes); };
  add(&version, 8);
  add(&code, 1);
  add(&count, 8);
  add(&documents, 8);
  add(lengths.data(), count * 4);
  int64_t offset = 0;
  for (const int32_t length : lengths) {
    add(&offset, 8);
    offset += int64_t{length} * bytes_of_type(code);
  }
  for (uint64_t document = 0; document < documents; ++document) add(&document, 8);
  return index;
}

struct IndexedDatasetWriter::State {
  State(const std::filesystem::path& prefix, int64_t vocab_size_)
      : vocab_size(vocab_size_), tokens_file(with_suffix(prefix, ".bin")), index_path(with_suffix(prefix, ".idx")) {}
  int64_t vocab_size;
  AtomicFile tokens_file;
  std::filesystem::path index_path;
  std::vector<int32_t> lengths;
  int64_t tokens = 0;
};

IndexedDatasetWriter::IndexedDatasetWriter(std::filesystem::path prefix, int64_t vocab_size)
    : state_(std::make_unique<State>(prefix, vocab_size)) {}
IndexedDatasetWriter::~IndexedDatasetWriter() = default;
int64_t IndexedDatasetWriter::sequences() const { return static_cast<int64_t>(state_->lengths.size()); }
int64_t IndexedDatasetWriter::tokens() const { return state_->tokens; }

void IndexedDatasetWriter::add(std::span<const int32_t> ids) {
  State& s = *state_;
  CBTM_ASSERT(ids.size() <= static_cast<size_t>(std::numeric_limits<int32_t>::max()),
              "a document has fewer than 2^31 tokens");
  s.tokens_file.write(indexed_dataset_tokens(ids, s.vocab_size));
  s.lengths.push_back(static_cast<int32_t>(ids.size()));
  s.tokens += static_cast<int64_t>(ids.size());
}

void IndexedDatasetWriter::commit() {
  State& s = *state_;
  AtomicFile index(s.index_path);
  index.write(indexed_dataset_index(s.lengths, s.vocab_size));
  s.tokens_file.commit();
  index.commit();
}

struct IndexedDataset::State {
  std::string name;
  std::optional<MappedFile> tokens_file, index_file;
  uint8_t code = 0;
  int64_t item = 0;
  int64_t count = 0;
  int64_t token_count = 0;
  const std::byte* lengths = nullptr;
  const std::byte* offsets = nullptr;

  template <typename Number>
  static Number load(const std::byte* base, int64_t index) {
    Number value;
    std::memcpy(&value, base + index * static_cast<int64_t>(sizeof value), sizeof value);
    return value;
  }
  int64_t token(int64_t place) const {
    const std::byte* base = tokens_file->bytes().data();
    switch (code) {
      case kU8: return load<uint8_t>(base, place);
      case kI8: return load<int8_t>(base, place);
      case kI16: return load<int16_t>(base, place);
      case kU16: return load<uint16_t>(base, place);
      case kI32: return load<int32_t>(base, place);
      default: return load<int64_t>(base, place);
    }
  }
};

IndexedDataset::IndexedDataset(const std::filesystem::path& prefix) : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.name = prefix.string();
  const std::filesystem::path index_path = with_suffix(prefix, ".idx");
  const std::filesystem::path tokens_path = with_suffix(prefix, ".bin");
  s.index_file.emplace(index_path);
  s.tokens_file.emplace(tokens_path);
  const std::string shown = index_path.string();
  const std::span<const std::byte> index = s.index_file->bytes();
  constexpr size_t kHeader = 34;
  const std::string_view text = s.index_file->text();
  if (const std::string foreign = foreign_content(text); !foreign.empty())
    fail("{}: not an indexed dataset: {}", shown, foreign);
  if (text.starts_with(kOlderMagic))
    fail("{}: an older kind of indexed dataset (TNTIDX); make it again with --dataset-impl mmap", shown);
  if (index.size() < kHeader || text.substr(0, 9) != kMagic) fail("{}: not an indexed dataset (wrong magic)", shown);
  uint64_t version = 0, count = 0, documents = 0;
  std::memcpy(&version, index.data() + 9, 8);
  s.code = static_cast<uint8_t>(index[17]);
  std::memcpy(&count, index.data() + 18, 8);
  std::memcpy(&documents, index.data() + 26, 8);
  if (version != 1) fail("{}: version {} is unknown", shown, version);
  s.item = bytes_of_type(s.code);
  if (s.code == kFloatA || s.code == kFloatB)
    fail("{}: dtype code {} is of floating-point numbers, not of token ids", shown, s.code);
  if (s.item == 0) fail("{}: dtype code {} is no integer type", shown, s.code);
  const uint64_t most = index.size() / 8;  // so that what is needed cannot overflow
  const uint64_t needed = kHeader + 12 * count + 8 * documents;
  if (count > most || documents > most || documents == 0 || (index.size() != needed && index.size() != needed + count))
    fail("{}: {} bytes do not fit {} sequences and {} documents", shown, index.size(), count, documents);
  s.count = static_cast<int64_t>(count);
  s.lengths = index.data() + kHeader;
  s.offsets = s.lengths + 4 * s.count;
  const std::byte* indices = s.offsets + 8 * s.count;
  const auto tokens_bytes = static_cast<int64_t>(s.tokens_file->size());
  int64_t expected = 0;
  for (int64_t i = 0; i < s.count; ++i) {
    const auto length = State::load<int32_t>(s.lengths, i);
    if (length < 0) fail("{}: sequence {} has length {}", shown, i, length);
    if (State::load<int64_t>(s.offsets, i) != expected)
      fail("{}: the offset of sequence {} is not the sum of the lengths before it", shown, i);
    expected += length * s.item;
    if (expected > tokens_bytes) break;  // and so it never overflows
  }
  if (const std::string foreign = foreign_content(s.tokens_file->text());
      foreign.find("Git LFS") != std::string::npos && expected != tokens_bytes)
    fail("{}: not token ids: {}", tokens_path.string(), foreign);
  if (expected > tokens_bytes)
    fail("{}: cut off: holds {} bytes, but its index counts more", tokens_path.string(), tokens_bytes);
  if (expected != tokens_bytes)
    fail("{}: holds {} bytes, but its index counts {}", tokens_path.string(), tokens_bytes, expected);
  int64_t before = -1;
  for (uint64_t d = 0; d < documents; ++d) {
    const auto first = State::load<int64_t>(indices, static_cast<int64_t>(d));
    if (first <= before || (d == 0 && first != 0) || (d + 1 == documents && first != s.count))
      fail("{}: its document indices do not rise from 0 to {}", shown, s.count);
    before = first;
  }
  s.token_count = expected / s.item;
}
IndexedDataset::~IndexedDataset() = default;
IndexedDataset::IndexedDataset(IndexedDataset&&) noexcept = default;

int64_t IndexedDataset::sequences() const { return state_->count; }
int64_t IndexedDataset::tokens() const { return state_->token_count; }
int64_t IndexedDataset::length(int64_t sequence) const { return State::load<int32_t>(state_->lengths, sequence); }
int64_t IndexedDataset::first_token(int64_t sequence) const {
  return State::load<int64_t>(state_->offsets, sequence) / state_->item;
}

void IndexedDataset::read(int64_t first, std::span<int32_t> out) const {
  CBTM_ASSERT(first >= 0 && first + static_cast<int64_t>(out.size()) <= tokens(), "a read lies inside the dataset");
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<int32_t>(state_->token(first + static_cast<int64_t>(i)));
}

std::vector<int32_t> IndexedDataset::sequence(int64_t index) const {
  CBTM_ASSERT(index >= 0 && index < sequences(), "a sequence that is there");
  std::vector<int32_t> ids(static_cast<size_t>(length(index)));
  read(first_token(index), ids);
  return ids;
}

void IndexedDataset::check_ids(int64_t vocab_size) const {
  for (int64_t place = 0; place < tokens(); ++place) {
    if ((place & 0xfffff) == 0) stop_if_requested("checking token ids");
    if (const int64_t id = state_->token(place); id < 0 || id >= vocab_size)
      fail("{}.bin: token {} is {}, outside the vocabulary of {}; shards and model belong to different tokenizers",
           state_->name, place, id, vocab_size);
  }
}

}  // namespace cbtm
