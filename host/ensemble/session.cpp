#include "cbtm/ensemble/session.h"

#include <algorithm>
#include <exception>

#include "cbtm/base/error.h"
#include "cbtm/device/device_error.h"
#include "ensemble/request_text.h"

namespace cbtm {

struct Session::Request {
  Request(GenerationRequest asked_, const Tokenizer* tokenizer, int64_t sequence_)
      : asked(std::move(asked_)),
        sequence(sequence_),
        text(tokenizer, asked.options.stop),
        random(asked.options.seed, asked.random_stream),
        seen(asked.prompt) {}

  GenerationRequest asked;
  int64_t sequence;  ///< of the scorer
  RequestText text;
  PhiloxStream random;
  std::vector<int32_t> seen;  ///< prompt and new tokens
  Generated result;
  bool has_caches = false;
  bool ended() const { return !result.finish.empty(); }
};

Session::Session(NextTokenScorer& scorer, const Tokenizer* tokenizer, const SessionOptions& options)
    : scorer_(scorer), tokenizer_(tokenizer), options_(options) {
  CBTM_ASSERT(options.prompt_rows > 0, "prompts are read");
}

Session::~Session() {
  for (const auto& [number, request] : requests_)
    if (!request->ended()) scorer_.close(request->sequence);
}

int64_t Session::add(GenerationRequest request) {
  const std::vector<int32_t>& prompt = request.prompt;
  const int64_t shown = next_number_ + 1;
  if (prompt.empty()) fail("prompt {} is empty; give it at least one token", shown);
  for (const int32_t id : prompt)
    if (id < 0 || id >= scorer_.vocab_size())
      fail("prompt {} holds token id {}, outside the vocabulary of {}", shown, id, scorer_.vocab_size());
  if (static_cast<int64_t>(prompt.size()) >= scorer_.max_length())
    fail("prompt {} has {} tokens, which leaves no room in the model's {} positions; shorten it", shown, prompt.size(),
         scorer_.max_length());
  const int64_t number = next_number_++;
  const int64_t sequence = scorer_.open(prompt, request.mixing);
  requests_.emplace(number, std::make_unique<Request>(std::move(request), tokenizer_, sequence));
  waiting_.push_back(number);
  return number;
}

const Generated& Session::so_far(int64_t request) const { return requests_.at(request)->result; }

Generated Session::remove(int64_t number) {
  const auto found = requests_.find(number);
  CBTM_ASSERT(found != requests_.end(), "a request is removed once");
  Request& request = *found->second;
  if (!request.ended()) {
    finish(request, "removed");
    std::erase(waiting_, number);
    std::erase(running_, number);
  }
  request.result.text = request.text.text();
  Generated result = std::move(request.result);
  requests_.erase(found);
  return result;
}

std::vector<int64_t> Session::step() {
  ended_.clear();
  admit();
  std::vector<int64_t> numbers;
  try {
    numbers = advance(running_);
  } catch (const DeviceError&) {  // no text is to blame
    throw;
  } catch (const std::exception&) {
    numbers = advance_each();
  }
  std::erase_if(running_, [&](int64_t number) { return requests_.at(number)->ended(); });
  std::vector<int64_t> shown = numbers;
  shown.insert(shown.end(), ended_.begin(), ended_.end());  // who is there twice has nothing new the second time
  show(shown);
  return ended_;
}

/// A token for each of those that have been read to their ends; returns these. What fails changes none of them.
std::vector<int64_t> Session::advance(std::vector<int64_t>& running) {
  const std::vector<int64_t> numbers = read(running);
  std::vector<PhiloxStream> random;
  for (const int64_t number : numbers) random.push_back(requests_.at(number)->random);
  std::vector<int32_t> ids;
  try {
    ids = choose(numbers);
    score(numbers, ids);
  } catch (...) {
    for (size_t i = 0; i < numbers.size(); ++i) requests_.at(numbers[i])->random = random[i];
    throw;
  }
  for (size_t i = 0; i < numbers.size(); ++i) {
    accept(*requests_.at(numbers[i]), ids[i]);
    if (requests_.at(numbers[i])->ended()) ended_.push_back(numbers[i]);
  }
  return numbers;
}

/// The same, one after another: whoever fails alone is to blame, and ends. What is known of the others is read again.
std::vector<int64_t> Session::advance_each() {
  std::vector<int64_t> advanced;
  for (const int64_t number : running_) scorer_.drop_caches(requests_.at(number)->sequence);
  for (const int64_t number : std::vector<int64_t>(running_)) {
    std::vector<int64_t> alone = {number};
    try {
      const std::vector<int64_t> numbers = advance(alone);
      advanced.insert(advanced.end(), numbers.begin(), numbers.end());
    } catch (const DeviceError&) {
      throw;
    } catch (const std::exception& error) {
      fail_request(*requests_.at(number), error.what());
      ended_.push_back(number);
    }
  }
  return advanced;
}

void Session::fail_request(Request& request, const std::string& error) {
  request.result.error = error;
  finish(request, "error");
}

/// Calls on_text, after everything else of a step: it may throw, or remove requests.
void Session::show(const std::vector<int64_t>& numbers) {
  std::exception_ptr first;
  for (const int64_t number : numbers) {
    const auto found = requests_.find(number);
    if (found == requests_.end()) continue;
    const std::string piece = found->second->text.take_new();
    const std::function<void(const std::string&)> on_text = found->second->asked.on_text;  // outlives its request
    if (!on_text || piece.empty()) continue;
    try {
      on_text(piece);
    } catch (...) {
      if (first == nullptr) first = std::current_exception();
    }
  }
  if (first != nullptr) std::rethrow_exception(first);
}

/// Lets waiting requests run, the first first; once caches did not fit, one for each that has ended since.
void Session::admit() {
  if (waiting_.empty()) full_ = false;
  while (!waiting_.empty() && (options_.requests_max == 0 || running() < options_.requests_max)) {
    if (full_ && !running_.empty()) {
      if (places_ == 0) break;
      --places_;
    }
    const int64_t number = waiting_.front();
    waiting_.pop_front();
    if (Request& request = *requests_.at(number); request.asked.options.new_tokens_max <= 0) {
      finish(request, "length");
      ended_.push_back(number);
      continue;
    }
    running_.insert(std::upper_bound(running_.begin(), running_.end(), number), number);
  }
}

/// Returns the requests that have been read to their ends: those that get a token.
std::vector<int64_t> Session::read(std::vector<int64_t>& running) {
  while (!running.empty()) {
    std::vector<int64_t> sequences;
    for (const int64_t number : running) sequences.push_back(requests_.at(number)->sequence);
    try {
      const std::vector<int64_t> read_to_end = scorer_.read(sequences, options_.prompt_rows);
      std::vector<int64_t> numbers;
      for (const int64_t number : running) {
        Request& request = *requests_.at(number);
        request.has_caches = true;
        // They come in the order that they were asked for in.
        if (numbers.size() < read_to_end.size() && read_to_end[numbers.size()] == request.sequence)
          numbers.push_back(number);
      }
      CBTM_ASSERT(numbers.size() == read_to_end.size(), "a scorer reads what it is asked to, in order");
      return numbers;
    } catch (const CacheFull& full) {
      const int64_t last = running.back();
      running.pop_back();
      Request& request = *requests_.at(last);
      if (running.empty()) {  // it does not even fit alone
        fail_request(request, full.what());
        ended_.push_back(last);
        break;
      }
      scorer_.drop_caches(request.sequence);
      waiting_.push_front(last);
      if (request.has_caches) ++evictions_;
      request.has_caches = false;
      full_ = true;
      places_ = 0;
    }
  }
  return {};
}

/// The next tokens of requests that have been read to their ends.
std::vector<int32_t> Session::choose(const std::vector<int64_t>& numbers) {
  std::vector<int32_t> ids(numbers.size());
  std::vector<TokenChoice> choices;
  std::vector<size_t> chosen;      // places in `numbers`
  std::vector<int64_t> penalised;  // sequences
  std::vector<size_t> penalised_places;
  for (size_t i = 0; i < numbers.size(); ++i) {
    Request& request = *requests_.at(numbers[i]);
    const SamplingOptions& sampling = request.asked.options.sampling;
    if (sampling.changes_scores()) {
      penalised.push_back(request.sequence);
      penalised_places.push_back(i);
      continue;
    }
    choices.push_back(
        {request.sequence, sampling.greedy, sampling.filter, sampling.greedy ? 0.0 : request.random.next_uniform()});
    chosen.push_back(i);
  }
  if (!choices.empty()) {
    const std::vector<int32_t> tokens = scorer_.choose(choices);
    for (size_t i = 0; i < tokens.size(); ++i) ids[chosen[i]] = tokens[i];
  }
  if (penalised.empty()) return ids;
  std::vector<float> scores;
  scorer_.score(penalised, scores);
  const auto vocab = static_cast<size_t>(scorer_.vocab_size());
  for (size_t row = 0; row < penalised.size(); ++row) {
    Request& request = *requests_.at(numbers[penalised_places[row]]);
    ids[penalised_places[row]] =
        choose_token(std::span(scores).subspan(row * vocab, vocab), request.seen, request.asked.options.sampling,
                     request.random, request.asked.prompt.size());
  }
  return ids;
}

/// Keeps the scores of the chosen tokens for those requests that want them.
void Session::score(const std::vector<int64_t>& numbers, const std::vector<int32_t>& ids) {
  std::vector<int64_t> sequences;
  std::vector<size_t> wanted;  // places in `numbers`
  for (size_t i = 0; i < numbers.size(); ++i) {
    const Request& request = *requests_.at(numbers[i]);
    if (request.asked.options.top_scores < 0) continue;
    sequences.push_back(request.sequence);
    wanted.push_back(i);
  }
  if (wanted.empty()) return;
  std::vector<float> log_probabilities;
  scorer_.log_probabilities(sequences, log_probabilities);
  const auto vocab = static_cast<size_t>(scorer_.vocab_size());
  for (size_t row = 0; row < wanted.size(); ++row) {
    Request& request = *requests_.at(numbers[wanted[row]]);
    request.result.scores.push_back(token_score(std::span(log_probabilities).subspan(row * vocab, vocab),
                                                ids[wanted[row]], request.asked.options.top_scores));
  }
}

void Session::accept(Request& request, int32_t id) {
  const GenerationOptions& options = request.asked.options;
  Generated& result = request.result;
  result.known_tokens = scorer_.known_tokens(request.sequence);
  const bool eos = std::find(options.eos_ids.begin(), options.eos_ids.end(), id) != options.eos_ids.end();
  if (eos && !options.ignore_eos) {
    result.end_token = id;
    return finish(request, "eos");
  }
  result.ids.push_back(id);
  request.seen.push_back(id);
  if (std::vector<double> weights = scorer_.weights(request.sequence); !weights.empty())
    result.weights.push_back(std::move(weights));
  if (request.text.push(id)) return finish(request, "stop");
  if (static_cast<int64_t>(result.ids.size()) >= options.new_tokens_max ||
      static_cast<int64_t>(request.seen.size()) >= scorer_.max_length())
    return finish(request, "length");
  scorer_.append(request.sequence, id);
}

void Session::finish(Request& request, std::string how) {
  request.result.finish = std::move(how);
  request.text.finish();
  scorer_.close(request.sequence);
  ++places_;
}

std::vector<Generated> generate(NextTokenScorer& scorer, const Tokenizer* tokenizer,
                                const std::vector<std::vector<int32_t>>& prompts, const GenerationOptions& options,
                                const std::function<void(size_t, const std::string&)>& on_text,
                                const std::optional<SequenceMixing>& mixing) {
  Session session(scorer, tokenizer);
  std::vector<int64_t> numbers;
  for (size_t s = 0; s < prompts.size(); ++s) {
    GenerationRequest request{
        .prompt = prompts[s], .mixing = mixing, .options = options, .random_stream = s, .on_text = {}};
    if (on_text) request.on_text = [&on_text, s](const std::string& piece) { on_text(s, piece); };
    numbers.push_back(session.add(std::move(request)));
  }
  while (!session.idle()) session.step();
  std::vector<Generated> results;
  for (const int64_t number : numbers) results.push_back(session.remove(number));
  return results;
}

}  // namespace cbtm
