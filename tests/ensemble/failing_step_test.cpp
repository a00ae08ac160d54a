// A step that fails: only the request that is to blame ends, and the others get what they get alone.

#include <set>

#include "cbtm/base/error.h"
#include "cpu/cpu_device.h"
#include "tests/ensemble/golden_ensemble.h"
#include "tests/ensemble/session_check.h"

namespace cbtm {
namespace {

constexpr int32_t kPoison = 300;

/// Fails as soon as it has to do with a text whose prompt begins with kPoison: where it reads, or where it chooses.
class FailingScorer : public RecordingScorer {
 public:
  FailingScorer(NextTokenScorer& inner, ScoresByText& scores, bool reading)
      : RecordingScorer(inner, scores), reading_(reading) {}
  using NextTokenScorer::open;
  int64_t open(std::vector<int32_t> prompt, const std::optional<SequenceMixing>& mixing) override {
    const bool poisoned = prompt.front() == kPoison;
    const int64_t sequence = RecordingScorer::open(std::move(prompt), mixing);
    if (poisoned) poisoned_.insert(sequence);
    return sequence;
  }
  std::vector<int64_t> read(std::span<const int64_t> sequences, int64_t prompt_rows) override {
    if (reading_)
      for (const int64_t sequence : sequences) check(sequence);
    return RecordingScorer::read(sequences, prompt_rows);
  }
  std::vector<int32_t> choose(std::span<const TokenChoice> choices) override {
    for (const TokenChoice& choice : choices) check(choice.sequence);
    return RecordingScorer::choose(choices);
  }

 private:
  void check(int64_t sequence) const {
    if (poisoned_.contains(sequence)) throw Error("this text is poison");
  }
  bool reading_;
  std::set<int64_t> poisoned_;
};

TEST_CASE("of a step that fails, only the request that is to blame ends") {
  CpuDevice device;
  const ExpertSet experts = golden_experts();
  const Mixture mixture{2, 0.3, 2};
  const auto requests = random_requests(9, experts.vocab_size(), 100, 31);
  const Outcome want = each_alone([&] { return ensemble_scorer(device, experts, mixture, {}); }, requests);
  GenerationRequest poison = requests[0];
  poison.prompt = {kPoison, 5};
  poison.options.sampling = {};
  for (const bool reading : {false, true})
    for (const bool shared : {false, true}) {
      const auto pool = generation_pool(device, experts);
      if (shared) pool->memory().caches.set_prompt_cache(1 << 24);
      const auto inner = ensemble_scorer(pool, mixture, {});
      Outcome got;
      FailingScorer scorer(*inner, got.scores, reading);
      Session session(scorer, nullptr);
      std::vector<int64_t> numbers, poisons;
      for (size_t r = 0; r < requests.size(); ++r) {
        if (r % 3 == 1) poisons.push_back(session.add(poison));
        numbers.push_back(session.add(requests[r]));
        session.step();
      }
      while (!session.idle()) session.step();
      for (const int64_t number : poisons) {
        const Generated result = session.remove(number);
        CHECK(result.finish == "error");
        CHECK(result.error == "this text is poison");
      }
      for (const int64_t number : numbers) {
        const Generated result = session.remove(number);
        CHECK(result.finish == "length");
        got.ids.push_back(result.ids);
      }
      check_same(got, want);
    }
}

}  // namespace
}  // namespace cbtm
