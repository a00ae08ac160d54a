#include "cbtm/tokenizer/trainer.h"

#include <algorithm>
#include <map>
#include <queue>
#include <unordered_map>

#include "cbtm/base/error.h"
#include "cbtm/base/threads.h"
#include "cbtm/base/utf8.h"
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
}

namespace {

struct Word {
  std::vector<int32_t> ids;
  int64_t count;
};

struct Candidate {
  int64_t count;
  int32_t left, right;
  /// The queue's top is the highest count, then the smallest ids.
  bool operator<(const Candidate& other) const {
    if (count != other.count) return count < other.count;
    if (left != other.left) return left > other.left;
    return right > other.right;
  }
};

class MergeLearner {
 public:
  explicit MergeLearner(std::vector<Word> words) : words_(std::move(words)) {
    for (size_t w = 0; w < words_.size(); ++w) count_pairs(w, +1);
    for (const auto& [pair, count] : counts_) offer(pair, count);
  }

  /// The pair to join next; false if none reaches `min_frequency`.
  bool next(int64_t min_frequency, int32_t& left, int32_t& right) {
    while (!queue_.empty()) {
      const Candidate candidate = queue_.top();
      const uint64_t pair = pair_key(candidate.left, candidate.right);
      const auto current = counts_.find(pair);
      const int64_t count = current == counts_.end() ? 0 : current->second;
      if (count != candidate.count) {  // counted differently since: put it back where it belongs
        queue_.pop();
        if (count > 0) offer(pair, count);
        continue;
      }
      if (count < std::max<int64_t>(1, min_frequency)) return false;
      queue_.pop();
      left = candidate.left;
      right = candidate.right;
      return true;
    }
    return false;
  }

  void join(int32_t left, int32_t right, int32_t result) {
    const uint64_t joined = pair_key(left, right);
    std::vector<int32_t> places = std::move(words_of_pair_[joined]);
    words_of_pair_.erase(joined);
    std::sort(places.begin(), places.end());
    places.erase(std::unique(places.begin(), places.end()), places.end());
    std::vector<uint64_t> grown;
    for (const int32_t place : places) {
      Word& word = words_[static_cast<size_t>(place)];
      if (!holds(word, left, right)) continue;
      count_pairs(static_cast<size_t>(place), -1);
      size_t out = 0;
      for (size_t i = 0; i < word.ids.size(); ++i) {
        const bool here = i + 1 < word.ids.size() && word.ids[i] == left && word.ids[i + 1] == right;
        word.ids[out++] = here ? result : word.ids[i];
        if (here) ++i;
      }
      word.ids.resize(out);
      for (size_t i = 0; i + 1 < word.ids.size(); ++i)
        if (word.ids[i] == result || word.ids[i + 1] == result) grown.push_back(pair_key(word.ids[i], word.ids[i + 1]));
      count_pairs(static_cast<size_t>(place), +1);
    }
    std::sort(grown.begin(), grown.end());
    grown.erase(std::unique(grown.begin(), grown.end()), grown.end());
    for (const uint64_t pair : grown) offer(pair, counts_[pair]);
  }

 private:
  static bool holds(const Word& word, int32_t left, int32_t right) {
    for (size_t i = 0; i + 1 < word.ids.size(); ++i)
      if (word.ids[i] == left && word.ids[i + 1] == right) return true;
    return false;
  }
  void offer(uint64_t pair, int64_t count) {
    queue_.push({count, static_cast<int32_t>(pair >> 32), static_cast<int32_t>(pair & 0xffffffffu)});
  }
  void count_pairs(size_t place, int64_t sign) {
    const Word& word = words_[place];
    for (size_t i = 0; i + 1 < word.ids.size(); ++i) {
      const uint64_t pair = pair_key(word.ids[i], word.ids[i + 1]);
      counts_[pair] += sign * word.count;
      if (sign < 0) continue;
      std::vector<int32_t>& places = words_of_pair_[pair];
      if (places.empty() || places.back() != static_cast<int32_t>(place)) places.push_back(static_cast<int32_t>(place));
    }
  }

  std::vector<Word> words_;
  std::unordered_map<uint64_t, int64_t, PairHash> counts_;
  std::unordered_map<uint64_t, std::vector<int32_t>, PairHash> words_of_pair_;
  std::priority_queue<Candidate> queue_;
};

}  // namespace

Tokenizer TokenizerTrainer::train(const TokenizerTrainingOptions& options) const {
  auto data = std::make_unique<Tokenizer::Data>();
  const auto add_token = [&](std::string bytes, bool special) {
    data->bytes.push_back(std::move(bytes));
    data->special.push_back(special ? 1 : 0);
    data->present.push_back(1);
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
    if (acts) data->special_strings.emplace_back(token, id);
    has_eos |= token == "</s>";
  }
  if (!has_eos) data->bos_id = data->eos_id = data->pad_id = 0;
  // The bytes in the order of their visible characters.
  std::map<char32_t, uint32_t> by_character;
  for (uint32_t byte = 0; byte < 256; ++byte) by_character[visible_characters()[byte]] = byte;
  for (const auto& [character, byte] : by_character)
    data->byte_ids[byte] = add_token(std::string(1, static_cast<char>(byte)), false);

  std::vector<Word> words;
  for (const auto& [piece, count] : state_->piece_counts) {
    Word word{{}, count};
    for (const char byte : piece) word.ids.push_back(data->byte_ids[static_cast<uint8_t>(byte)]);
    if (word.ids.size() > 1) words.push_back(std::move(word));
  }
  std::unordered_map<std::string, int32_t> id_of;
  for (const auto& [character, byte] : by_character)
    id_of[std::string(1, static_cast<char>(byte))] = data->byte_ids[byte];

  MergeLearner learner(std::move(words));
  int32_t left = 0;
  int32_t right = 0;
  while (static_cast<int64_t>(data->bytes.size()) < options.vocab_size &&
         learner.next(options.min_frequency, left, right)) {
    const std::string joined = data->bytes[static_cast<size_t>(left)] + data->bytes[static_cast<size_t>(right)];
    const auto known = id_of.find(joined);  // the same string may be reached through another pair
    const int32_t result = known != id_of.end() ? known->second : add_token(joined, false);
    if (known == id_of.end()) id_of[joined] = result;
    data->merges.emplace_back(left, right);
    learner.join(left, right, result);
  }
  data->finish();
  return Tokenizer(std::move(data));
}

}  // namespace cbtm
