#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cbtm/tokenizer/tokenizer.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/pretokens.h"

namespace cbtm {

struct Merge {
  int32_t rank = 0;
  int32_t result = 0;  ///< id of the joined string
};

struct PairHash {
  size_t operator()(uint64_t pair) const { return (pair * 0x9E3779B97F4A7C15ull) >> 17; }
};

/// An ordered pair of ids as one key.
inline uint64_t pair_key(int32_t left, int32_t right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

/// How a token of the vocabulary is written in its file.
enum class Spelling : uint8_t {
  none,     ///< not in the vocabulary: a gap, or an added token that is only that
  visible,  ///< GPT-2's visible characters stand for its bytes
  literal   ///< some character is none of those: the text stands for itself, and no text is ever encoded to it
};

struct Tokenizer::Data {
  std::vector<std::string> bytes;                   ///< by id, what it decodes to; "" where an id has no entry
  std::vector<uint8_t> special;                     ///< by id
  std::vector<Spelling> spelling;                   ///< by id
  std::array<int32_t, 256> byte_ids{};              ///< id of each single byte; -1: text loses this byte
  std::vector<std::pair<int32_t, int32_t>> merges;  ///< by rank
  std::vector<int32_t> merge_results;               ///< by rank
  std::vector<AddedToken> added;                    ///< by id, rising
  Pretokenization pretokenization;
  bool ignore_merges = false;       ///< a piece that is a token is that token, whatever the merges say
  std::vector<int32_t> prefix_ids;  ///< put in front of a text with EncodeOptions::add_bos
  std::vector<int32_t> suffix_ids;  ///< and behind it
  int32_t bos_id = 0, eos_id = 0, pad_id = 0;
  std::string unk;  ///< "" if none is named

  // Made by finish().
  std::unordered_map<uint64_t, Merge, PairHash> merge_of_pair;
  std::unordered_map<std::string_view, int32_t> id_of_piece;  ///< only with ignore_merges; points into bytes
  AddedTokenTree first_added, second_added;  ///< cut out in two passes: AddedToken::normalized false, then true
  std::string content_hash;

  /// Makes room for ids up to `id`.
  void grow(int32_t id);
  /// Fills what is made from the rest.
  void finish();
  /// Whether vocab.json, merges.txt and the names of the roles say all there is to say.
  bool is_plain() const;
};

/// Ids of one pretoken's bytes: the pair of lowest rank is joined until none is left. O(n log n).
void encode_pretoken(const Tokenizer::Data& data, std::string_view piece, std::vector<int32_t>& ids);

/// GPT-2's visible characters for bytes (docs/tokenizer.md, 'Bytes as characters'): code point of each byte.
const std::array<char32_t, 256>& visible_characters();
/// Raw bytes of a string of visible characters; false if some character is none of them.
bool bytes_of_visible(std::string_view visible, std::string& bytes);
std::string visible_of_bytes(std::string_view bytes);

}  // namespace cbtm
