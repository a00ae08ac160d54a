#include "cbtm/tokenizer/trainer.h"

#include <algorithm>
#include <map>
#include <unordered_map>

#include "cbtm/base/error.h"
#include "cbtm/base/signals.h"
#include "cbtm/base/threads.h"
#include "cbtm/base/utf8.h"
#include "tokenizer/merge_learner.h"
#include "tokenizer/pretokens.h"
#include "tokenizer/tokenizer_data.h"

namespace cbtm {

struct TokenizerTrainer::State {
  std::unordered_map<std::string, int64_t> piece_counts;
};

TokenizerTrainer::TokenizerTrainer() : state_(std::make_unique<State>()) {}
TokenizerTrainer::~TokenizerTrainer() = default;

void TokenizerTrainer::add(const std::vector<std::string>& texts) {
  std::vector<std::unordered_map<std::string_view, int64_t>> counts(static_cast<size_t>(thread_count()));
  parallel_ranges(static_cast<int64_t>(texts.size()), 1e5, [&](int64_t begin, int64_t end) {
    auto& own = counts[static_cast<size_t>(omp_get_thread_num())];
    for (int64_t i = begin; i < end; ++i) {
      const std::string_view text = texts[static_cast<size_t>(i)];
      for (size_t place = 0; place < text.size();) {
        const size_t piece_end = pretoken_end(text, place);
        ++own[text.substr(place, piece_end - place)];
        place = piece_end;
      }
    }
  });
  for (const auto& own : counts)
    for (const auto& [piece, count] : own) state_->piece_counts[std::string(piece)] += count;
  stop_if_requested("the tokenizer");
}

Tokenizer TokenizerTrainer::train(const TokenizerTrainingOptions& options) const {
  auto data = std::make_unique<Tokenizer::Data>();
  const auto add_token = [&](std::string bytes, bool special) {
    data->bytes.push_back(std::move(bytes));
    data->special.push_back(special ? 1 : 0);
    data->spelling.push_back(Spelling::visible);
    return static_cast<int32_t>(data->bytes.size()) - 1;
  };
  if (options.vocab_size < 256 + static_cast<int64_t>(options.special_tokens.size()))
    fail_usage("--vocab-size {} has no room for 256 bytes and {} special tokens", options.vocab_size,
               options.special_tokens.size());
  bool has_eos = false;
  for (const std::string& token : options.special_tokens) {
    const bool acts = token == "</s>" || token == "<pad>";
    const int32_t id = add_token(token, acts);
    if (token == "</s>") data->bos_id = data->eos_id = id;
    if (token == "<pad>") data->pad_id = id;
    if (acts) data->added.push_back({.content = token, .id = id});
    has_eos |= token == "</s>";
  }
  if (!has_eos) data->bos_id = data->eos_id = data->pad_id = 0;
  data->prefix_ids = {data->bos_id};
  if (has_eos) data->unk = "</s>";
  // The bytes in the order of their visible characters.
  std::map<char32_t, uint32_t> by_character;
  for (uint32_t byte = 0; byte < 256; ++byte) by_character[visible_characters()[byte]] = byte;
  for (const auto& [character, byte] : by_character)
    data->byte_ids[byte] = add_token(std::string(1, static_cast<char>(byte)), false);

  MergeLearner learner;
  std::vector<int32_t> word;
  int64_t words = 0;
  for (const auto& [piece, count] : state_->piece_counts) {
    if (++words % (1 << 16) == 0) stop_if_requested("the tokenizer");
    if (piece.size() < 2) continue;
    word.clear();
    for (const char byte : piece) word.push_back(data->byte_ids[static_cast<uint8_t>(byte)]);
    learner.add(word, count);
  }
  learner.begin(options.min_frequency);
  std::unordered_map<std::string, int32_t> id_of;
  for (const auto& [character, byte] : by_character)
    id_of[std::string(1, static_cast<char>(byte))] = data->byte_ids[byte];

  int32_t left = 0;
  int32_t right = 0;
  while (static_cast<int64_t>(data->bytes.size()) < options.vocab_size && learner.next(left, right)) {
    const std::string joined = data->bytes[static_cast<size_t>(left)] + data->bytes[static_cast<size_t>(right)];
    const auto known = id_of.find(joined);  // the same string may be reached through another pair
    const int32_t result = known != id_of.end() ? known->second : add_token(joined, false);
    if (known == id_of.end()) id_of[joined] = result;
    data->merges.emplace_back(left, right);
    data->merge_results.push_back(result);
    learner.join(left, right, result);
  }
  data->finish();
  return Tokenizer(std::move(data));
}

}  // namespace cbtm
