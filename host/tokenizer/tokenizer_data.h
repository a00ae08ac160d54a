#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cbtm/tokenizer/tokenizer.h"

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

struct Tokenizer::Data {
  std::vector<std::string> bytes;       ///< by id; the text itself of special tokens; "" where an id has no entry
  std::vector<uint8_t> special;         ///< by id
  std::vector<uint8_t> present;         ///< by id: vocab.json has it
  std::array<int32_t, 256> byte_ids{};  ///< id of each single byte
  std::vector<std::pair<int32_t, int32_t>> merges;  ///< by rank
  std::unordered_map<uint64_t, Merge, PairHash> merge_of_pair;
  std::vector<std::pair<std::string, int32_t>> special_strings;  ///< cut out of the text if asked for; longest first
  int32_t bos_id = 2, eos_id = 2, pad_id = 1;
  std::string unk = "</s>";
  std::string content_hash;

  /// Fills merge_of_pair and content_hash from the rest.
  void finish();
};

/// Ids of one pretoken's bytes: the pair of lowest rank is joined until none is left. O(n log n).
void encode_pretoken(const Tokenizer::Data& data, std::string_view piece, std::vector<int32_t>& ids);

/// GPT-2's visible characters for bytes (tokenizer reference, section 2): code point of each byte.
const std::array<char32_t, 256>& visible_characters();

}  // namespace cbtm
