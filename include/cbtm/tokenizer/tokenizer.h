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
  /// Add the tokens that the tokenizer's files put around a text: `</s>` in front for OPT, none for GPT-2.
  bool add_bos = false;
  /// Cut special strings (`</s>`, `<pad>`) out of the text first. Off for corpus text. Added tokens that are not
  /// special are always cut out.
  bool special_tokens = false;
};

/// Byte-level BPE as in GPT-2 and OPT, and its relatives (docs/tokenizer.md). Immutable, safe to share between threads.
class Tokenizer {
 public:
  /// Reads the files as `transformers` does (docs/formats.md, 'Tokenizer'): tokenizer.json, or vocab.json and
  /// merges.txt; then tokenizer_config.json, special_tokens_map.json and added_tokens.json. Throws Error naming file
  /// and line. Parts that are not understood are refused (docs/tokenizer.md, 'What is refused').
  static Tokenizer load(const std::filesystem::path& directory);
  /// Whether `directory` holds a tokenizer's files.
  static bool is_in(const std::filesystem::path& directory);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  /// Highest id + 1.
  int32_t vocab_size() const;
  int32_t bos_id() const;  ///< OPT: 2; the same as eos if the files name none
  int32_t eos_id() const;  ///< OPT: 2; follows each document
  int32_t pad_id() const;  ///< OPT: 1; the same as eos if the files name none

  /// The ids of a text, which must be valid UTF-8; else throws Error with the byte offset. To encode many texts, use
  /// one Encoder per thread: it is faster.
  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options = {}) const;

  /// The raw bytes of one token. A special token gives its own text, an id without a token "".
  std::string_view bytes_of(int32_t id) const;
  bool is_special(int32_t id) const;
  /// The bytes of all ids. Each maximal ill-formed subpart is replaced by U+FFFD.
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;

  /// Writes files into `directory` (which exists) from which load() makes this tokenizer again: special_tokens_map.json
  /// and tokenizer_config.json, with vocab.json and merges.txt if they can express it, else with tokenizer.json.
  void save(const std::filesystem::path& directory) const;
  /// A hash over vocabulary, merges and everything else that decides how corpus text is encoded (docs/formats.md,
  /// 'Tokenizer').
  const std::string& content_hash() const;

  struct Data;
  explicit Tokenizer(std::unique_ptr<const Data> data);
  const Data& data() const { return *data_; }

 private:
  std::unique_ptr<const Data> data_;
};

/// Encodes many texts on one thread, with a cache from pieces to ids. The tokenizer must outlive it.
class Encoder {
 public:
  explicit Encoder(const Tokenizer& tokenizer);
  ~Encoder();
  Encoder(const Encoder&) = delete;
  Encoder& operator=(const Encoder&) = delete;
  /// Appends the ids to `ids`.
  void encode(std::string_view text, const EncodeOptions& options, std::vector<int32_t>& ids);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Turns tokens into text as they come. An incomplete last UTF-8 sequence (at most 3 bytes) is held back until it is
/// whole.
class StreamingDecoder {
 public:
  explicit StreamingDecoder(const Tokenizer& tokenizer, bool skip_special = true)
      : tokenizer_(tokenizer), skip_special_(skip_special) {}
  /// Returns the whole characters that `id` completes.
  std::string push(int32_t id);
  /// Returns the bytes that are held back, as U+FFFD.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  std::string pending_;
};

}  // namespace cbtm
