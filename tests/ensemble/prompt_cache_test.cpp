// Prompts that begin alike: what one text has read others do not read again, and nobody's bits change.

#include <algorithm>

#include "cbtm/ensemble/prompt_scorer.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/model/training_model.h"
#include "cpu/cpu_device.h"
#include "tests/ensemble/golden_ensemble.h"
#include "tests/ensemble/session_check.h"
#include "tests/opt_shape.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

constexpr int64_t kPage = 16;
constexpr int64_t kGoldenPageBytes = 2 * 2 * kPage * 32 * 4;  // keys and values of two layers, 32 float32

/// Requests of which most begin like one of two others, up to a random token.
std::vector<GenerationRequest> alike_requests(int64_t count, int64_t vocab_size, int64_t prompt_max, uint64_t seed) {
  std::vector<GenerationRequest> requests = random_requests(count, vocab_size, prompt_max, seed);
  PhiloxStream random(seed, 3);
  std::vector<int32_t> beginnings[2];
  for (std::vector<int32_t>& beginning : beginnings)
    for (int64_t t = 0; t < prompt_max; ++t)
      beginning.push_back(static_cast<int32_t>(4 + below(random, vocab_size - 4)));
  for (size_t r = 0; r < requests.size(); ++r) {
    if (r % 7 == 6) continue;
    std::vector<int32_t>& prompt = requests[r].prompt;
    const int64_t shared = r % 5 == 0 ? prompt_max : below(random, prompt_max + 1);
    prompt.resize(static_cast<size_t>(std::max<int64_t>(static_cast<int64_t>(prompt.size()), shared)), 5);
    std::copy_n(beginnings[r % 2].begin(), shared, prompt.begin());
  }
  return requests;
}

int64_t prompt_pages(const GenerationRequest& request) {
  return (static_cast<int64_t>(request.prompt.size()) - 1) / kPage * kPage;
}

TEST_CASE("one model: texts whose prompts begin alike get what each gets alone, bit for bit") {
  CpuDevice device;
  const TemporaryDirectory directory;
  const OptShape shape{
      .vocab_size = 61, .hidden_size = 24, .ffn_dim = 40, .max_position_embeddings = 1400, .word_embed_proj_dim = 24};
  std::vector<float> parameters = initial_parameters(ModelSpec(shape), 3);
  for (float& value : parameters) value *= 4;  // scores that differ
  write_model_checkpoint(directory.path() / "model", ModelSpec(shape), parameters);
  for (const WeightFormat weights : {WeightFormat::f32, WeightFormat::int8}) {
    const auto requests = alike_requests(16, 61, 1200, 7);
    const Outcome want = each_alone(
        [&] { return model_scorer(InferenceModel::load(device, directory.path() / "model", weights)); }, requests);
    for (const SessionOptions& options : {SessionOptions{}, SessionOptions{.requests_max = 3, .prompt_rows = 1}}) {
      const auto memory = std::make_shared<ModelMemory>(device, int64_t{1} << 30, 1);
      memory->caches.set_prompt_cache(int64_t{1} << 28);
      const auto scorer = model_scorer(InferenceModel::load(device, directory.path() / "model", weights, memory));
      check_same(together(*scorer, requests, options, 5), want);
      check_same(together(*scorer, requests, options, 6), want);  // all of them are known now
      CHECK(memory->caches.prompt_cache().pages > 0);
      CHECK(memory->caches.prompt_cache().evictions == 0);
    }
  }
}

TEST_CASE("an ensemble: likewise, each expert with pages of its own, in ample memory and in little") {
  CpuDevice device;
  const ExpertSet experts = golden_experts();
  const auto requests = alike_requests(24, experts.vocab_size(), 150, 11);
  for (const Mixture& mixture : {Mixture{1, 0.1, 2}, Mixture{3, 0.3, 2}}) {
    const Outcome want = each_alone([&] { return ensemble_scorer(device, experts, mixture, {}); }, requests);
    for (const int64_t pages : {1000, 60}) {
      const auto pool = generation_pool(device, experts, GoldenBytes().memory(1, pages * kGoldenPageBytes));
      pool->memory().caches.set_prompt_cache(pages * kGoldenPageBytes);
      const auto scorer = ensemble_scorer(pool, mixture, {});
      for (const int64_t prompt_rows : {1, 2048})
        check_same(together(*scorer, requests, {.prompt_rows = prompt_rows}, 3), want);
      const PromptCache& cache = pool->memory().caches.prompt_cache();
      CHECK((cache.evictions > 0) == (pages == 60));
    }
  }
}

TEST_CASE("a text says how much of its prompt was known, also beside others that begin like it in the same step") {
  CpuDevice device;
  const ExpertSet experts = golden_experts();
  const auto pool = generation_pool(device, experts);
  pool->memory().caches.set_prompt_cache(1 << 24);
  const auto scorer = ensemble_scorer(pool, {4, 0.3, 2}, {});
  Session session(*scorer, nullptr);
  std::vector<GenerationRequest> requests = random_requests(3, experts.vocab_size(), 150, 5);
  for (GenerationRequest& request : requests) request.options.new_tokens_max = 3;
  requests[0].prompt.assign(100, 43);
  requests[1].prompt = requests[0].prompt;
  requests[1].prompt[70] = 44;
  requests[2].prompt = requests[0].prompt;
  std::vector<int64_t> numbers;
  for (const GenerationRequest& request : requests) numbers.push_back(session.add(request));
  while (!session.idle()) session.step();
  CHECK(session.remove(numbers[0]).known_tokens == 0);
  CHECK(session.remove(numbers[1]).known_tokens == 70 / kPage * kPage);
  CHECK(session.remove(numbers[2]).known_tokens == prompt_pages(requests[2]));
}

TEST_CASE("without a prompt cache nothing is shared, and nothing is kept") {
  CpuDevice device;
  const ExpertSet experts = golden_experts();
  const auto pool = generation_pool(device, experts);
  const auto scorer = ensemble_scorer(pool, {4, 0.3, 2}, {});
  for (int round = 0; round < 2; ++round) {
    Session session(*scorer, nullptr);
    const int64_t number = session.add({.prompt = std::vector<int32_t>(100, 43),
                                        .mixing = std::nullopt,
                                        .options = {.new_tokens_max = 2, .ignore_eos = true},
                                        .on_text = {}});
    while (!session.idle()) session.step();
    CHECK(session.remove(number).known_tokens == 0);
  }
  CHECK(pool->memory().caches.prompt_cache().pages == 0);
}

TEST_CASE("kept pages stay within their bound, and are given up before a running text's cache is") {
  CpuDevice device;
  const ExpertSet experts = golden_experts();
  const Mixture mixture{1, 0.1, 2};
  const auto requests = alike_requests(24, experts.vocab_size(), 150, 29);
  constexpr int64_t kBound = 9 * kGoldenPageBytes;
  const auto bounded = generation_pool(device, experts);
  bounded->memory().caches.set_prompt_cache(kBound);
  // As much memory as the longest text needs alone, and all may be kept.
  const auto small = generation_pool(device, experts, GoldenBytes().memory(4, 40 * kGoldenPageBytes));
  small->memory().caches.set_prompt_cache(40 * kGoldenPageBytes);
  for (const auto& pool : {bounded, small}) {
    const auto scorer = ensemble_scorer(pool, mixture, {.schedule = RoutingSchedule::prompt});
    for (const GenerationRequest& request : requests) {
      Session session(*scorer, nullptr);
      session.add(request);
      while (!session.idle()) {
        session.step();
        const PromptCache& cache = pool->memory().caches.prompt_cache();
        CHECK(cache.bytes <= cache.bytes_max);
        CHECK(cache.bytes == cache.pages * kGoldenPageBytes);
      }
      CHECK(session.evictions() == 0);
    }
    CHECK(pool->memory().caches.prompt_cache().evictions > 0);
  }
}

TEST_CASE("a prompt that was scored is known to the text that goes on from it") {
  CpuDevice device;
  const ExpertSet experts = golden_experts();
  const SequenceMixing mixing{{2, 0.3, 2}, {}, experts.present()};
  auto requests = alike_requests(6, experts.vocab_size(), 150, 17);
  const Outcome want =
      each_alone([&] { return ensemble_scorer(device, experts, mixing.mixture, mixing.routing); }, requests);
  const auto pool = generation_pool(device, experts);
  pool->memory().caches.set_prompt_cache(1 << 24);
  const auto scorer = ensemble_scorer(pool, mixing.mixture, mixing.routing);
  PromptScorer prompt_scorer(pool, mixing);
  for (const GenerationRequest& request : requests) prompt_scorer.add(request.prompt, 2, std::nullopt);
  while (!prompt_scorer.idle()) prompt_scorer.step(1);
  Session session(*scorer, nullptr);
  for (size_t r = 0; r < requests.size(); ++r) {
    const PromptScores scores = prompt_scorer.remove(static_cast<int64_t>(r));
    CHECK(scores.next_scores == want.scores.at(requests[r].prompt));
    const int64_t number = session.add(requests[r]);
    while (!session.idle()) session.step();
    const Generated result = session.remove(number);
    CHECK(result.ids == want.ids[r]);
    CHECK(result.known_tokens == prompt_pages(requests[r]));
  }
}

}  // namespace
}  // namespace cbtm
