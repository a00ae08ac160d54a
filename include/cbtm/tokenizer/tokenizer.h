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
  bool add_bos = false;         ///< put the bos token (OPT: `</s>`) in front
  bool special_tokens = false;  ///< cut special strings (`</s>`, `<pad>`) out of the text first; off for corpus text
};

/// Byte-level BPE as GPT-2 and OPT use it (shared/reference/tokenizer.md). Immutable; safe to share between threads.
class Tokenizer {
 public:
  /// Reads vocab.json and merges.txt, and special_tokens_map.json if it is there. Throws Error naming file and line.
  static Tokenizer load(const std::filesystem::path& directory);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  /// Highest id + 1.
  int32_t vocab_size() const;
  int32_t bos_id() const;  ///< OPT: 2
  int32_t eos_id() const;  ///< OPT: 2, as bos
  int32_t pad_id() const;  ///< OPT: 1

  /// Ids of valid UTF-8 text. Throws Error with the byte position if the text is not UTF-8. One encoder a thread is
  /// faster where much is encoded: see Encoder.
  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options = {}) const;

  /// The raw bytes of one token; special tokens give their own text; an id without entry gives "".
  std::string_view bytes_of(int32_t id) const;
  bool is_special(int32_t id) const;
  /// Bytes of all ids, each maximal ill-formed subpart replaced by U+FFFD.
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;

  /// Writes vocab.json, merges.txt, special_tokens_map.json, tokenizer_config.json into `directory` (which exists).
  void save(const std::filesystem::path& directory) const;
  /// hash_hex over vocabulary and merges: equal exactly when two tokenizers encode alike.
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
