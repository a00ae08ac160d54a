#include "cbtm/tokenizer/tokenizer.h"

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
    for (size_t place = 0; place < text.size();) {
      const size_t end = pretoken_end(text, place);
      encode_piece(text.substr(place, end - place), out);
      place = end;
    }
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
  if (options.add_bos) ids.push_back(data.bos_id);
  if (!options.special_tokens || data.special_strings.empty()) return state_->encode_plain(text, ids);
  for (size_t place = 0; place < text.size();) {
    size_t cut = std::string_view::npos;
    const std::pair<std::string, int32_t>* which = nullptr;
    for (const auto& special : data.special_strings) {
      const size_t found = text.find(special.first, place);
      if (found < cut) {
        cut = found;
        which = &special;
      }
    }
    if (which == nullptr) return state_->encode_plain(text.substr(place), ids);
    state_->encode_plain(text.substr(place, cut - place), ids);
    ids.push_back(which->second);
    place = cut + which->first.size();
  }
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

void Tokenizer::Data::finish() {
  std::unordered_map<std::string_view, int32_t> id_of;
  for (size_t id = 0; id < bytes.size(); ++id)
    if (present[id] != 0 && special[id] == 0) id_of.emplace(bytes[id], static_cast<int32_t>(id));
  merge_of_pair.clear();
  StreamingHash hash;
  for (size_t id = 0; id < bytes.size(); ++id) {
    hash.update(bytes[id]);
    hash.update(std::string_view(special[id] != 0 ? "\1" : "\0", 1));
  }
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    const std::string joined = bytes[static_cast<size_t>(left)] + bytes[static_cast<size_t>(right)];
    const auto found = id_of.find(joined);
    CBTM_ASSERT(found != id_of.end(), "merges were checked against the vocabulary when they were read");
    merge_of_pair.emplace(pair_key(left, right), Merge{static_cast<int32_t>(rank), found->second});
    hash.update(&merges[rank], sizeof merges[rank]);
  }
  content_hash = hash.hex();
}

}  // namespace cbtm
