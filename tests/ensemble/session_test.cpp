// Requests that come, go and wait: each gets what it gets alone, bit for bit.

#include "cbtm/ensemble/session.h"

#include "cbtm/base/error.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/model/training_model.h"
#include "cpu/cpu_device.h"
#include "tests/ensemble/golden_ensemble.h"
#include "tests/ensemble/recording_scorer.h"
#include "tests/opt_shape.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

/// A random number below `bound`.
int64_t below(PhiloxStream& random, int64_t bound) {
  return static_cast<int64_t>(random.next_uniform() * static_cast<double>(bound));
}

/// Requests of any length with settings of their own.
std::vector<GenerationRequest> random_requests(int64_t count, int64_t vocab_size, int64_t prompt_max, uint64_t seed) {
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

Outcome each_alone(const MakeScorer& make, const std::vector<GenerationRequest>& requests) {
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
Outcome together(NextTokenScorer& scorer, const std::vector<GenerationRequest>& requests, const SessionOptions& options,
                 uint64_t seed) {
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

void check_same(const Outcome& got, const Outcome& want) {
  CHECK(got.ids == want.ids);
  for (const auto& [text, scores] : want.scores) {
    const auto found = got.scores.find(text);
    REQUIRE(found != got.scores.end());
    CHECK(found->second == scores);
  }
}

/// A small model with room for prompts of several pieces.
struct LongModel {
  TemporaryDirectory directory;
  explicit LongModel(bool post_norm_and_projections = false) {
    OptShape shape{
        .vocab_size = 61, .hidden_size = 24, .ffn_dim = 40, .max_position_embeddings = 1400, .word_embed_proj_dim = 24};
    if (post_norm_and_projections) {
      shape.word_embed_proj_dim = 12;
      shape.do_layer_norm_before = false;
    }
    const ModelSpec spec = shape;
    std::vector<float> parameters = initial_parameters(spec, 3);
    for (float& value : parameters) value *= 4;  // scores that differ
    write_model_checkpoint(directory.path() / "model", spec, parameters);
  }
  std::unique_ptr<NextTokenScorer> scorer(Device& device, WeightFormat weights) const {
    return model_scorer(InferenceModel::load(device, directory.path() / "model", weights));
  }
};

TEST_CASE("one model: requests that come and go at random get what each gets alone, bit for bit") {
  CpuDevice device;
  for (const bool post_norm : {false, true}) {
    const LongModel model(post_norm);
    for (const WeightFormat weights : {WeightFormat::f32, WeightFormat::bf16, WeightFormat::int8, WeightFormat::int4}) {
      CAPTURE(weight_format_name(weights));
      const MakeScorer make = [&] { return model.scorer(device, weights); };
      const auto requests = random_requests(14, 61, 1300, 7);
      const Outcome want = each_alone(make, requests);
      for (const SessionOptions& options : {SessionOptions{}, SessionOptions{.requests_max = 3, .prompt_rows = 1}}) {
        CAPTURE(options.prompt_rows);
        check_same(together(*make(), requests, options, 5), want);
      }
    }
  }
}

TEST_CASE("an ensemble: the same, with experts that come into use late") {
  CpuDevice device;
  const ExpertSet experts = golden_experts();
  for (const Mixture& mixture : {Mixture{1, 0.1, 2}, Mixture{3, 0.3, 2}}) {
    const MakeScorer make = [&] { return ensemble_scorer(device, experts, mixture, {}); };
    const auto requests = random_requests(20, experts.vocab_size(), 150, 11);
    const Outcome want = each_alone(make, requests);
    for (const int64_t prompt_rows : {1, 40, 2048})
      check_same(together(*make(), requests, {.prompt_rows = prompt_rows}, 3), want);
  }
}

TEST_CASE("caches that are full: the last request waits and is read again, and nothing else changes") {
  CpuDevice device;
  const ExpertSet experts = golden_experts();
  constexpr int64_t kPageBytes = 2 * 2 * 16 * 32 * 4;  // keys and values of two layers, 16 tokens of 32 float32
  const Mixture mixture{2, 0.3, 2};
  auto requests = random_requests(16, experts.vocab_size(), 120, 23);
  const Outcome want = each_alone([&] { return ensemble_scorer(device, experts, mixture, {}); }, requests);
  const int64_t memory = GoldenBytes().memory(2, 40 * kPageBytes);
  const auto scorer = ensemble_scorer(device, experts, mixture, {}, memory);
  Outcome got;
  RecordingScorer recording(*scorer, got.scores);
  Session session(recording, nullptr, {.prompt_rows = 256});
  for (const GenerationRequest& request : requests) session.add(request);
  while (!session.idle()) session.step();
  CHECK(session.evictions() > 0);
  for (size_t r = 0; r < requests.size(); ++r) {
    const Generated result = session.remove(static_cast<int64_t>(r));
    CHECK(result.finish == "length");
    got.ids.push_back(result.ids);
  }
  check_same(got, want);
}

TEST_CASE("a request that does not fit alone ends with an error, and the others go on") {
  CpuDevice device;
  const ExpertSet experts = golden_experts();
  constexpr int64_t kPageBytes = 2 * 2 * 16 * 32 * 4;
  const auto scorer = ensemble_scorer(device, experts, {2, 0.3, 2}, {}, GoldenBytes().memory(1, 12 * kPageBytes));
  Session session(*scorer, nullptr);
  GenerationRequest small{.prompt = {896}, .options = {.new_tokens_max = 5, .ignore_eos = true}, .on_text = {}};
  GenerationRequest large = small;
  large.prompt.assign(180, 43);
  const int64_t first = session.add(small), middle = session.add(large), last = session.add(small);
  while (!session.idle()) session.step();
  CHECK(session.remove(first).finish == "length");
  const Generated refused = session.remove(middle);
  CHECK(refused.finish == "error");
  CHECK(refused.error.find("--memory") != std::string::npos);
  CHECK(session.remove(last).finish == "length");
}

TEST_CASE("each request streams its own text, stops at its own strings, and may be removed at any time") {
  CpuDevice device;
  const ExpertSet experts = golden_experts();
  const auto scorer = ensemble_scorer(device, experts, {2, 0.1, 2}, {});
  Session session(*scorer, &experts.tokenizer());
  std::string streamed[3];
  GenerationRequest request{.prompt = {524, 421, 453, 539},
                            .options = {.new_tokens_max = 20, .sampling = {.greedy = true}, .ignore_eos = true}};
  request.on_text = [&](const std::string& piece) { streamed[0] += piece; };
  const int64_t whole = session.add(request);
  while (!session.idle()) session.step();
  const Generated all = session.remove(whole);
  CHECK(streamed[0] == all.text);
  request.options.stop = {all.text.substr(6, 4)};
  request.on_text = [&](const std::string& piece) { streamed[1] += piece; };
  const int64_t stopped = session.add(request);
  request.options.stop.clear();
  request.on_text = [&](const std::string& piece) { streamed[2] += piece; };
  const int64_t removed = session.add(request);
  for (int step = 0; step < 3; ++step) session.step();
  const Generated part = session.remove(removed);
  CHECK(part.finish == "removed");
  CHECK(part.ids == std::vector<int32_t>(all.ids.begin(), all.ids.begin() + 3));
  CHECK(all.text.starts_with(streamed[2]));
  while (!session.idle()) session.step();
  const Generated cut = session.remove(stopped);
  CHECK(cut.finish == "stop");
  CHECK(cut.text == all.text.substr(0, all.text.find(all.text.substr(6, 4))));
  CHECK(streamed[1] == cut.text);
  GenerationRequest none = request;
  none.options.new_tokens_max = 0;
  const int64_t nothing = session.add(none);
  CHECK(session.step() == std::vector<int64_t>{nothing});
  CHECK(session.remove(nothing).finish == "length");
}

}  // namespace
}  // namespace cbtm
