#include "cbtm/tokenizer/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>

#include "cbtm/base/error.h"
#include "cbtm/base/hash.h"
#include "cbtm/base/utf8.h"
#include "tokenizer/pretokens.h"
#include "tokenizer/tokenizer_data.h"

namespace cbtm {

Tokenizer::Tokenizer(std::unique_ptr<const Data> data) : data_(std::move(data)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

int32_t Tokenizer::vocab_size() const { return static_cast<int32_t>(data_->bytes.size()); }
int32_t Tokenizer::bos_id() const { return data_->bos_id; }
int32_t Tokenizer::eos_id() const { return data_->eos_id; }
int32_t Tokenizer::pad_id() const { return data_->pad_id; }
const std::string& Tokenizer::content_hash() const { return data_->content_hash; }

std::string_view Tokenizer::bytes_of(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  return data_->bytes[static_cast<size_t>(id)];
}
bool Tokenizer::is_special(int32_t id) const {
  return id >= 0 && id < vocab_size() && data_->special[static_cast<size_t>(id)] != 0;
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  std::vector<int32_t> ids;
  Encoder(*this).encode(text, options, ids);
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string bytes;
  for (const int32_t id : ids)
    if (!skip_special || !is_special(id)) bytes += bytes_of(id);
  return replace_invalid_utf8(bytes);
}

struct Encoder::State {
  /// Pieces seen before: their ids lie in `ids`. Cleared when full, so that odd text cannot fill the memory.
  struct Entry {
    uint32_t begin, count;
  };
  static constexpr size_t kEntriesMax = size_t{1} << 19;
  static constexpr size_t kPieceBytesMax = 48;

  const Tokenizer& tokenizer;
  std::unordered_map<std::string_view, Entry> cache;
  std::deque<std::string> pieces;
  std::vector<int32_t> ids;

  void encode_plain(std::string_view text, std::vector<int32_t>& out) {
    for_each_pretoken(tokenizer.data().pretokenization, text,
                      [&](std::string_view piece) { encode_piece(piece, out); });
  }

  /// Text with added tokens; `special`: also special ones.
  void encode(std::string_view text, bool special, std::vector<int32_t>& out) {
    const Tokenizer::Data& data = tokenizer.data();
    const auto token = [&](int32_t id) { out.push_back(id); };
    cut_added_tokens(
        data.added, data.first_added, text, special,
        [&](std::string_view part) {
          cut_added_tokens(
              data.added, data.second_added, part, special, [&](std::string_view plain) { encode_plain(plain, out); },
              token);
        },
        token);
  }

  void encode_piece(std::string_view piece, std::vector<int32_t>& out) {
    if (piece.size() > kPieceBytesMax) return encode_pretoken(tokenizer.data(), piece, out);
    const auto found = cache.find(piece);
    if (found != cache.end()) {
      const auto begin = ids.begin() + found->second.begin;
      out.insert(out.end(), begin, begin + found->second.count);
      return;
    }
    if (cache.size() >= kEntriesMax) {
      cache.clear();
      pieces.clear();
      ids.clear();
    }
    const auto begin = static_cast<uint32_t>(ids.size());
    encode_pretoken(tokenizer.data(), piece, ids);
    pieces.emplace_back(piece);
    cache.emplace(pieces.back(), Entry{begin, static_cast<uint32_t>(ids.size()) - begin});
    out.insert(out.end(), ids.begin() + begin, ids.end());
  }
};

Encoder::Encoder(const Tokenizer& tokenizer) : state_(new State{tokenizer, {}, {}, {}}) {}
Encoder::~Encoder() = default;

void Encoder::encode(std::string_view text, const EncodeOptions& options, std::vector<int32_t>& ids) {
  if (const size_t bad = find_invalid_utf8(text); bad != std::string_view::npos)
    fail("the text is not UTF-8 at byte {}; convert it first", bad);
  const Tokenizer::Data& data = state_->tokenizer.data();
  if (options.add_bos) ids.insert(ids.end(), data.prefix_ids.begin(), data.prefix_ids.end());
  state_->encode(text, options.special_tokens, ids);
  if (options.add_bos) ids.insert(ids.end(), data.suffix_ids.begin(), data.suffix_ids.end());
}

std::string StreamingDecoder::push(int32_t id) {
  if (!skip_special_ || !tokenizer_.is_special(id)) pending_ += tokenizer_.bytes_of(id);
  const size_t held_back = incomplete_utf8_tail(pending_);
  std::string whole = replace_invalid_utf8(std::string_view(pending_).substr(0, pending_.size() - held_back));
  pending_.erase(0, pending_.size() - held_back);
  return whole;
}

std::string StreamingDecoder::finish() {
  std::string rest = replace_invalid_utf8(pending_);
  pending_.clear();
  return rest;
}

void Tokenizer::Data::grow(int32_t id) {
  const size_t size = std::max(bytes.size(), static_cast<size_t>(id) + 1);
  bytes.resize(size);
  special.resize(size);
  spelling.resize(size, Spelling::none);
}

bool Tokenizer::Data::is_plain() const {
  const auto is_role = [&](int32_t id) {
    return id == bos_id || id == eos_id || id == pad_id || (!unk.empty() && bytes[static_cast<size_t>(id)] == unk);
  };
  const auto plain_token = [&](const AddedToken& token) {
    return token.special && !token.lstrip && !token.rstrip && !token.single_word &&
           token.normalized == added.front().normalized && is_role(token.id) &&
           spelling[static_cast<size_t>(token.id)] != Spelling::none;
  };
  return pretokenization == Pretokenization() && !ignore_merges && suffix_ids.empty() &&
         (prefix_ids.empty() || prefix_ids == std::vector<int32_t>{bos_id}) &&
         std::find(byte_ids.begin(), byte_ids.end(), -1) == byte_ids.end() &&
         std::all_of(added.begin(), added.end(), plain_token);
}

void Tokenizer::Data::finish() {
  std::sort(added.begin(), added.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  first_added = second_added = AddedTokenTree();
  for (size_t i = 0; i < added.size(); ++i)
    (added[i].normalized ? second_added : first_added).insert(added[i].content, static_cast<int32_t>(i));
  id_of_piece.clear();
  if (ignore_merges)
    for (size_t id = 0; id < bytes.size(); ++id)
      if (spelling[id] == Spelling::visible) id_of_piece.emplace(bytes[id], static_cast<int32_t>(id));

  StreamingHash hash;
  for (size_t id = 0; id < bytes.size(); ++id) {
    hash.update(bytes[id]);
    hash.update(std::string_view(special[id] != 0 ? "\1" : "\0", 1));
  }
  merge_of_pair.clear();
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    // Of a pair that is there twice the later rank counts, as in the tokenizers library.
    merge_of_pair[pair_key(left, right)] = {static_cast<int32_t>(rank), merge_results[rank]};
    hash.update(&merges[rank], sizeof merges[rank]);
  }
  // What the first tokenizers did not have must not change their hash.
  if (pretokenization != Pretokenization() || ignore_merges)
    hash.update(fmt::format("pretokens {} {} {} {}\n", static_cast<int>(pretokenization.digits),
                            static_cast<int>(pretokenization.pattern), pretokenization.add_prefix_space,
                            ignore_merges));
  for (const AddedToken& token : added)
    if (!token.special || token.lstrip || token.rstrip || token.single_word)
      hash.update(fmt::format("added {} {}{}{}{}{} {}\n", token.id, token.special, token.normalized, token.lstrip,
                              token.rstrip, token.single_word, token.content));
  content_hash = hash.hex();
}

}  // namespace cbtm
