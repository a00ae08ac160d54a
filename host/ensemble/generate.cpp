#include "cbtm/ensemble/generate.h"

#include <algorithm>
#include <optional>

#include "cbtm/base/error.h"

namespace cbtm {
namespace {

/// The first stop string in `text`, or npos.
size_t find_stop(const std::string& text, const std::vector<std::string>& stop) {
  size_t first = std::string::npos;
  for (const std::string& word : stop) first = std::min(first, text.find(word));
  return first;
}

/// How much of `text` can be shown: not what may yet turn out to be the beginning of a stop string.
size_t safe_length(const std::string& text, const std::vector<std::string>& stop) {
  size_t safe = text.size();
  for (const std::string& word : stop)
    for (size_t held = std::min(word.size() - 1, text.size()); held > 0; --held)
      if (text.compare(text.size() - held, held, word, 0, held) == 0) {
        safe = std::min(safe, text.size() - held);
        break;
      }
  return safe;
}

struct Growing {
  Growing(const Tokenizer* tokenizer, PhiloxStream random_) : random(random_) {
    if (tokenizer != nullptr) decoder.emplace(*tokenizer, /*skip_special=*/true);
  }
  std::optional<StreamingDecoder> decoder;  ///< none without a tokenizer
  PhiloxStream random;
  std::vector<int32_t> seen;  ///< prompt and new tokens
  Generated result;
  size_t shown = 0;
};

/// The next token of each active sequence.
std::vector<int32_t> choose_tokens(NextTokenScorer& scorer, const std::vector<int64_t>& active,
                                   std::vector<Growing>& all, const SamplingOptions& sampling) {
  if (sampling.repetition_penalty == 1) {
    std::vector<double> uniforms(active.size(), 0.0);
    for (size_t row = 0; row < active.size() && !sampling.greedy; ++row)
      uniforms[row] = all[static_cast<size_t>(active[row])].random.next_uniform();
    return scorer.choose(active, sampling, uniforms);
  }
  std::vector<float> scores;
  scorer.score(active, scores);
  std::vector<int32_t> ids;
  const auto vocab = static_cast<size_t>(scorer.vocab_size());
  for (size_t row = 0; row < active.size(); ++row) {
    Growing& growing = all[static_cast<size_t>(active[row])];
    ids.push_back(choose_token(std::span(scores).subspan(row * vocab, vocab), growing.seen, sampling, growing.random));
  }
  return ids;
}

}  // namespace

std::vector<Generated> generate(NextTokenScorer& scorer, const Tokenizer* tokenizer,
                                const std::vector<std::vector<int32_t>>& prompts, const GenerationOptions& options) {
  std::vector<Growing> all;
  std::vector<int64_t> active;
  for (size_t s = 0; s < prompts.size(); ++s) {
    if (prompts[s].empty()) fail("prompt {} is empty; give it at least one token", s + 1);
    for (const int32_t id : prompts[s])
      if (id < 0 || id >= scorer.vocab_size())
        fail("prompt {} holds token id {}, outside the vocabulary of {}", s + 1, id, scorer.vocab_size());
    if (static_cast<int64_t>(prompts[s].size()) >= scorer.max_length())
      fail("prompt {} has {} tokens, which leaves no room in the model's {} positions; shorten it", s + 1,
           prompts[s].size(), scorer.max_length());
    all.emplace_back(tokenizer, PhiloxStream(options.seed, s));
    all.back().seen = prompts[s];
    if (options.new_tokens_max > 0) active.push_back(static_cast<int64_t>(s));
  }
  const auto show = [&](int64_t sequence, size_t until) {
    Growing& growing = all[static_cast<size_t>(sequence)];
    if (sequence == 0 && options.stream && until > growing.shown)
      options.stream(growing.result.text.substr(growing.shown, until - growing.shown));
    growing.shown = std::max(growing.shown, until);
  };

  scorer.start(prompts);
  while (!active.empty()) {
    const std::vector<int32_t> chosen = choose_tokens(scorer, active, all, options.sampling);
    std::vector<int64_t> still;
    for (size_t row = 0; row < active.size(); ++row) {
      const int64_t sequence = active[row];
      Growing& growing = all[static_cast<size_t>(sequence)];
      const int32_t id = chosen[row];
      const bool eos = std::find(options.eos_ids.begin(), options.eos_ids.end(), id) != options.eos_ids.end();
      if (eos && !options.ignore_eos) {
        growing.result.finish = "eos";
        continue;
      }
      growing.result.ids.push_back(id);
      growing.seen.push_back(id);
      if (std::vector<double> weights = scorer.weights(sequence); !weights.empty())
        growing.result.weights.push_back(std::move(weights));
      if (growing.decoder) growing.result.text += growing.decoder->push(id);
      if (const size_t stop = find_stop(growing.result.text, options.stop); stop != std::string::npos) {
        growing.result.text.resize(stop);
        growing.result.finish = "stop";
        continue;
      }
      show(sequence, safe_length(growing.result.text, options.stop));
      scorer.append(sequence, id);
      if (static_cast<int64_t>(growing.result.ids.size()) >= options.new_tokens_max ||
          static_cast<int64_t>(growing.seen.size()) >= scorer.max_length()) {
        growing.result.finish = "length";
        continue;
      }
      still.push_back(sequence);
    }
    active = std::move(still);
  }
  std::vector<Generated> results;
  for (size_t s = 0; s < all.size(); ++s) {
    if (all[s].decoder && all[s].result.finish != "stop") all[s].result.text += all[s].decoder->finish();
    show(static_cast<int64_t>(s), all[s].result.text.size());
    results.push_back(std::move(all[s].result));
  }
  return results;
}

}  // namespace cbtm
