#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace cbtm {

struct EncodeOptions {
  /// Put around the text what the tokenizer's files put there: OPT `</s>` in front, GPT-2 nothing.
  bool add_bos = false;
  /// Cut special strings (`</s>`, `<pad>`) out of the text first; off for corpus text. Added tokens that are not
  /// special are always cut out.
  bool special_tokens = false;
};

/// Byte-level BPE as GPT-2 and OPT use it, and its relatives. Immutable; safe to share between threads.
class Tokenizer {
 public:
  /// Reads the files as `transformers` does (docs/formats.md, 'Tokenizer'): tokenizer.json, or vocab.json and
  /// merges.txt; then tokenizer_config.json, special_tokens_map.json and added_tokens.json. Throws Error naming file
  /// and line, and for every part of a tokenizer that is not understood.
  static Tokenizer load(const std::filesystem::path& directory);
  /// Whether `directory` holds a tokenizer's files.
  static bool is_in(const std::filesystem::path& directory);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  /// Highest id + 1.
  int32_t vocab_size() const;
  int32_t bos_id() const;  ///< OPT: 2; as eos where the files name none
  int32_t eos_id() const;  ///< OPT: 2; ends each document
  int32_t pad_id() const;  ///< OPT: 1; as eos where the files name none

  /// Ids of valid UTF-8 text. Throws Error with the byte position if the text is not UTF-8. One encoder a thread is
  /// faster where much is encoded: see Encoder.
  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options = {}) const;

  /// The raw bytes of one token; special tokens give their own text; an id without entry gives "".
  std::string_view bytes_of(int32_t id) const;
  bool is_special(int32_t id) const;
  /// Bytes of all ids, each maximal ill-formed subpart replaced by U+FFFD.
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;

  /// Writes files into `directory` (which exists) that load() reads back as this tokenizer: special_tokens_map.json,
  /// tokenizer_config.json, and vocab.json and merges.txt where these can say all, else tokenizer.json.
  void save(const std::filesystem::path& directory) const;
  /// Hash over vocabulary, merges and all else that decides how corpus text is encoded (docs/formats.md, 'Tokenizer').
  const std::string& content_hash() const;

  struct Data;
  explicit Tokenizer(std::unique_ptr<const Data> data);
  const Data& data() const { return *data_; }

 private:
  std::unique_ptr<const Data> data_;
};

/// Encodes many texts on one thread, with a cache from pretoken to ids. The tokenizer must outlive it.
class Encoder {
 public:
  explicit Encoder(const Tokenizer& tokenizer);
  ~Encoder();
  Encoder(const Encoder&) = delete;
  Encoder& operator=(const Encoder&) = delete;
  /// Appends to `ids`.
  void encode(std::string_view text, const EncodeOptions& options, std::vector<int32_t>& ids);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Text of tokens as they come: holds back an incomplete last UTF-8 sequence (at most 3 bytes) until it is whole.
class StreamingDecoder {
 public:
  explicit StreamingDecoder(const Tokenizer& tokenizer, bool skip_special = true)
      : tokenizer_(tokenizer), skip_special_(skip_special) {}
  /// The whole characters that `id` completes.
  std::string push(int32_t id);
  /// What is held back, as U+FFFD.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  std::string pending_;
};

}  // namespace cbtm
