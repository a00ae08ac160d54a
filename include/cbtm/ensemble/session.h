#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cbtm/ensemble/next_token_scorer.h"
#include "cbtm/ensemble/token_score.h"
#include "cbtm/model/sampling.h"
#include "cbtm/tokenizer/tokenizer.h"

namespace cbtm {

struct GenerationOptions {
  int64_t new_tokens_max = 128;
  SamplingOptions sampling;
  std::vector<int32_t> eos_ids = {2};
  bool ignore_eos = false;
  std::vector<std::string> stop;  ///< a text ends before the first of these strings
  uint64_t seed = 1234;
  /// The score of each new token is kept, with so many of the most likely ones; -1: none are. They are the model's own,
  /// before penalties, bias and temperature.
  int64_t top_scores = -1;
};

struct GenerationRequest {
  std::vector<int32_t> prompt;
  std::optional<SequenceMixing> mixing;  ///< of an ensemble; without it the scorer's own settings apply
  GenerationOptions options;
  uint64_t random_stream = 0;  ///< of the seed: requests of one seed draw different numbers
  /// Called with whole characters of the text as they come, at the end of a step. It may remove requests, this one too.
  /// What it throws comes out of step(), when all others have been called.
  std::function<void(const std::string&)> on_text;
};

struct Generated {
  std::vector<int32_t> ids;  ///< new tokens, without an end token; with that which completed a stop string
  std::string text;          ///< of the new tokens; cut before a stop string
  std::string finish;        ///< "length", "eos", "stop", "error" (see `error`), or "removed" before its end
  std::string error;
  int64_t known_tokens = 0;                  ///< of the prompt: as NextTokenScorer::known_tokens, once it was read
  int32_t end_token = -1;                    ///< which ended it, if `finish` is "eos"
  std::vector<TokenScore> scores;            ///< one per new token, then that of the end token; see top_scores
  std::vector<std::vector<double>> weights;  ///< one list per new token, by cluster; empty for one model
};

struct SessionOptions {
  int64_t requests_max = 0;    ///< that run at once; 0: all, as far as their caches fit
  int64_t prompt_rows = 2048;  ///< tokens of prompts that a step reads, about: others wait for so long
};

/// Requests that generate text together, with one model or an ensemble. They join and leave between steps. A step adds
/// a token to every request whose text has been read, and reads some of the others' prompts. What a request generates
/// does not depend on the others, bit for bit.
///
/// If a step fails, the requests do it one by one, and those that fail alone end with an error.
///
/// First come, first served. If the caches of all do not fit into memory together, the request that came last gives up
/// its own and waits until another has ended; then its text is read again. A request that does not even fit alone ends
/// with an error. An ensemble's caches have the bound of its pool; those of one model grow until the device refuses.
class Session {
 public:
  /// Without a tokenizer the results have ids but no text. The scorer and the tokenizer must outlive the session.
  Session(NextTokenScorer& scorer, const Tokenizer* tokenizer, const SessionOptions& options = {});
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// Returns the request's number, from 0. Throws Error if the prompt is empty, holds an id outside the vocabulary, or
  /// leaves no room for a token.
  int64_t add(GenerationRequest request);
  /// Does one step, and returns the requests that have ended in it. If it fails, the requests try it one by one, and
  /// those that fail alone end with an error; throws DeviceError if the device itself has failed.
  std::vector<int64_t> step();
  /// Whether no request is left that has not ended.
  bool idle() const { return waiting_.empty() && running_.empty(); }
  /// What a request has generated so far; `text` is empty until it is removed.
  const Generated& so_far(int64_t request) const;
  /// Takes the request out, whether it has ended or not.
  Generated remove(int64_t request);

  int64_t running() const { return static_cast<int64_t>(running_.size()); }
  int64_t waiting() const { return static_cast<int64_t>(waiting_.size()); }
  int64_t evictions() const { return evictions_; }  ///< times that a request gave up its caches

 private:
  struct Request;

  void admit();
  std::vector<int64_t> advance(std::vector<int64_t>& running);
  std::vector<int64_t> advance_each();
  std::vector<int64_t> read(std::vector<int64_t>& running);
  void fail_request(Request& request, const std::string& error);
  std::vector<int32_t> choose(const std::vector<int64_t>& numbers);
  void score(const std::vector<int64_t>& numbers, const std::vector<int32_t>& ids);
  void accept(Request& request, int32_t id);
  void finish(Request& request, std::string how);
  void show(const std::vector<int64_t>& numbers);

  NextTokenScorer& scorer_;
  const Tokenizer* tokenizer_;
  SessionOptions options_;
  std::map<int64_t, std::unique_ptr<Request>> requests_;
  std::deque<int64_t> waiting_;   ///< in the order of their arrival
  std::vector<int64_t> running_;  ///< likewise
  std::vector<int64_t> ended_;    ///< in this step
  bool full_ = false;             ///< caches did not fit, and some requests wait for it
  int64_t places_ = 0;            ///< requests that have ended since and whose place is free
  int64_t evictions_ = 0;
  int64_t next_number_ = 0;
};

/// Continues every prompt in a session. Throws Error as Session::add does, before anything is generated. A prompt that
/// memory does not suffice for, not even alone, has the finish "error". `on_text` receives the number of a prompt and
/// whole characters as they come. `mixing`: of all prompts, as in GenerationRequest.
std::vector<Generated> generate(NextTokenScorer& scorer, const Tokenizer* tokenizer,
                                const std::vector<std::vector<int32_t>>& prompts, const GenerationOptions& options,
                                const std::function<void(size_t, const std::string&)>& on_text = {},
                                const std::optional<SequenceMixing>& mixing = std::nullopt);

}  // namespace cbtm
