#pragma once

#include <doctest/doctest.h>

#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "cbtm/base/philox.h"
#include "cbtm/ensemble/session.h"
#include "tests/ensemble/recording_scorer.h"

namespace cbtm {

/// A random number below `bound`.
inline int64_t below(PhiloxStream& random, int64_t bound) {
  return static_cast<int64_t>(random.next_uniform() * static_cast<double>(bound));
}

/// Requests of any length with settings of their own.
inline std::vector<GenerationRequest> random_requests(int64_t count, int64_t vocab_size, int64_t prompt_max,
                                                      uint64_t seed) {
  PhiloxStream random(seed, 1);
  std::vector<GenerationRequest> requests;
  for (int64_t r = 0; r < count; ++r) {
    GenerationRequest request{
        .options = {.ignore_eos = true, .seed = seed}, .random_stream = static_cast<uint64_t>(r), .on_text = {}};
    const int64_t length = r % 3 == 0 ? 1 + below(random, 12) : 1 + below(random, prompt_max);
    for (int64_t t = 0; t < length; ++t)
      request.prompt.push_back(static_cast<int32_t>(4 + below(random, vocab_size - 4)));
    request.options.new_tokens_max = 1 + below(random, 12);
    request.options.sampling.greedy = r % 4 == 1;
    request.options.sampling.filter.temperature = 0.5 + random.next_uniform();
    if (r % 5 == 2) request.options.sampling.repetition_penalty = 1.3;
    requests.push_back(std::move(request));
  }
  return requests;
}

struct Outcome {
  std::vector<std::vector<int32_t>> ids;
  ScoresByText scores;
};

using MakeScorer = std::function<std::unique_ptr<NextTokenScorer>()>;

inline Outcome each_alone(const MakeScorer& make, const std::vector<GenerationRequest>& requests) {
  Outcome outcome;
  for (const GenerationRequest& request : requests) {
    const auto scorer = make();
    RecordingScorer recording(*scorer, outcome.scores);
    Session session(recording, nullptr);
    const int64_t number = session.add(request);
    while (!session.idle()) session.step();
    outcome.ids.push_back(session.remove(number).ids);
  }
  return outcome;
}

/// Adds the requests at random steps, and others beside them that are removed before their ends.
inline Outcome together(NextTokenScorer& scorer, const std::vector<GenerationRequest>& requests,
                        const SessionOptions& options, uint64_t seed) {
  Outcome outcome;
  ScoresByText& recorded = outcome.scores;
  RecordingScorer recording(scorer, recorded);
  Session session(recording, nullptr, options);
  PhiloxStream random(seed, 2);
  outcome.ids.resize(requests.size());
  std::map<int64_t, size_t> numbers;
  std::vector<int64_t> passing;
  size_t next = 0;
  while (next < requests.size() || !session.idle()) {
    while (next < requests.size() && random.next_uniform() < 0.4) {
      numbers[session.add(requests[next])] = next;
      ++next;
      if (random.next_uniform() < 0.3) {
        GenerationRequest other = requests[static_cast<size_t>(below(random, static_cast<int64_t>(requests.size())))];
        other.options.new_tokens_max = 100;
        passing.push_back(session.add(std::move(other)));
      }
    }
    for (const int64_t number : session.step())
      if (numbers.contains(number)) {
        Generated result = session.remove(number);
        CHECK(result.finish == "length");
        outcome.ids[numbers.at(number)] = std::move(result.ids);
      }
    if (!passing.empty() && (random.next_uniform() < 0.2 || next == requests.size())) {
      session.remove(passing.back());
      passing.pop_back();
    }
  }
  return outcome;
}

inline void check_same(const Outcome& got, const Outcome& want) {
  CHECK(got.ids == want.ids);
  for (const auto& [text, scores] : want.scores) {
    const auto found = got.scores.find(text);
    REQUIRE(found != got.scores.end());
    CHECK(found->second == scores);
  }
}

}  // namespace cbtm
