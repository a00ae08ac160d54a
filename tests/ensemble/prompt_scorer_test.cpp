// The scores of a prompt's tokens: those that the evaluation of documents finds by another way, whatever else is
// scored, and the same bits after the prompt as in a session.

#include "cbtm/ensemble/prompt_scorer.h"

#include <cmath>
#include <numeric>

#include "cbtm/ensemble/session.h"
#include "cpu/cpu_device.h"
#include "tests/ensemble/golden_ensemble.h"

namespace cbtm {
namespace {

struct Scored {
  std::vector<PromptScores> prompts;
};

/// Scores prompts together, in steps of so many tokens.
Scored scored(PromptScorer& scorer, const std::vector<std::vector<int32_t>>& prompts, int64_t rows) {
  std::vector<int64_t> numbers;
  for (const auto& prompt : prompts) numbers.push_back(scorer.add(prompt, 3, std::nullopt));
  size_t ended = 0;
  while (!scorer.idle()) ended += scorer.step(rows).size();
  CHECK(ended == prompts.size());
  Scored result;
  for (const int64_t number : numbers) result.prompts.push_back(scorer.remove(number));
  return result;
}

void check_equal(const PromptScores& got, const PromptScores& want) {
  REQUIRE(got.tokens.size() == want.tokens.size());
  for (size_t t = 0; t < got.tokens.size(); ++t) {
    CHECK(got.tokens[t].log_probability == want.tokens[t].log_probability);
    CHECK(got.tokens[t].top == want.tokens[t].top);
  }
  CHECK(got.next_scores == want.next_scores);
  CHECK(got.weights == want.weights);
}

std::vector<std::vector<int32_t>> golden_prompts() {
  std::vector<std::vector<int32_t>> prompts;
  for (const EvaluationDocument& document : golden_documents()) prompts.push_back(document.ids);
  prompts.push_back({524, 421, 453, 539});
  prompts.push_back({896});
  return prompts;
}

TEST_CASE("an ensemble scores prompts as it scores documents") {
  CpuDevice device;
  const ExpertSet experts = golden_experts();
  const Mixture mixture{2, 0.3, 2};
  std::vector<std::vector<double>> want;
  evaluate_ensemble(device, experts, golden_documents(),
                    {.mixtures = {mixture},
                     .length_max = experts.max_length(),
                     .token_details = [&](const EvaluationDocument&, const TokenDetails& details) {
                       want.push_back(details.log_probabilities);
                     }});
  PromptScorer scorer(generation_pool(device, experts), {mixture, {}, experts.present()});
  const Scored got = scored(scorer, golden_prompts(), 1);
  for (size_t d = 0; d < want.size(); ++d) {
    REQUIRE(got.prompts[d].tokens.size() >= want[d].size());
    for (size_t t = 0; t < want[d].size(); ++t)
      CHECK(static_cast<double>(got.prompts[d].tokens[t].log_probability) == doctest::Approx(want[d][t]).epsilon(1e-5));
  }
  for (const PromptScores& prompt : got.prompts) {
    CHECK(prompt.weights.size() == prompt.tokens.size() + 1);
    for (const TokenScore& token : prompt.tokens) {
      REQUIRE(token.top.size() == 3);
      CHECK(token.top[0].second >= token.top[1].second);
      CHECK(token.log_probability <= token.top[0].second);
    }
  }
}

TEST_CASE("prompts that are scored together have the bits of each alone, also where caches are taken away") {
  CpuDevice device;
  const ExpertSet experts = golden_experts();
  const SequenceMixing mixing{{2, 0.3, 2}, {}, experts.present()};
  const auto prompts = golden_prompts();
  std::vector<PromptScores> alone;
  for (const auto& prompt : prompts) {
    PromptScorer scorer(generation_pool(device, experts), mixing);
    alone.push_back(scored(scorer, {prompt}, 1).prompts.front());
  }
  PromptScorer scorer(generation_pool(device, experts), mixing);
  const Scored together = scored(scorer, prompts, 4096);
  for (size_t p = 0; p < prompts.size(); ++p) check_equal(together.prompts[p], alone[p]);
  std::vector<int64_t> numbers;
  for (const auto& prompt : prompts) numbers.push_back(scorer.add(prompt, 3, std::nullopt));
  for (; !scorer.idle(); scorer.drop_caches()) scorer.step(1);
  for (size_t p = 0; p < prompts.size(); ++p) check_equal(scorer.remove(numbers[p]), alone[p]);
}

TEST_CASE("after a prompt stands what a session has there, and its own scores say how likely its tokens were") {
  CpuDevice device;
  const ExpertSet experts = golden_experts();
  const Mixture mixture{2, 0.3, 2};
  const auto pool = generation_pool(device, experts);
  const auto scorer = ensemble_scorer(pool, mixture, {});
  const auto prompts = golden_prompts();
  Session session(*scorer, &experts.tokenizer());
  std::vector<Generated> generated;
  for (const auto& prompt : prompts)
    session.add({.prompt = prompt,
                 .mixing = std::nullopt,
                 .options = {.new_tokens_max = 4, .sampling = {.greedy = true}, .ignore_eos = true, .top_scores = 2},
                 .on_text = {}});
  while (!session.idle()) session.step();
  PromptScorer prompt_scorer(pool, {mixture, {}, experts.present()});
  for (size_t p = 0; p < prompts.size(); ++p) {
    const Generated result = session.remove(static_cast<int64_t>(p));
    REQUIRE(result.scores.size() == result.ids.size());
    const PromptScores scores = scored(prompt_scorer, {prompts[p]}, 64).prompts.front();
    CHECK(token_score(scores.next_log_probabilities, result.ids[0], 2).top == result.scores[0].top);
    for (const TokenScore& token : result.scores) CHECK(token.log_probability == token.top[0].second);
    // The text with its new tokens, scored as a prompt: equal but for the order of sums.
    std::vector<int32_t> whole = prompts[p];
    whole.insert(whole.end(), result.ids.begin(), result.ids.end());
    const PromptScores again = scored(prompt_scorer, {whole}, 64).prompts.front();
    for (size_t t = 0; t < result.ids.size(); ++t)
      CHECK(again.tokens[prompts[p].size() - 1 + t].log_probability ==
            doctest::Approx(result.scores[t].log_probability).epsilon(1e-4));
  }
}

TEST_CASE("one model: its log-probabilities sum to one, and equal those of its targets") {
  CpuDevice device;
  const auto model = InferenceModel::load(device, kGolden / "experts/000");
  PromptScorer scorer(*model);
  const std::vector<int32_t> ids = golden_documents().front().ids;
  const PromptScores got = scored(scorer, {ids}, 100).prompts.front();
  std::vector<int32_t> targets(ids.begin() + 1, ids.end());
  targets.push_back(-100);
  const std::vector<int32_t> offsets = {0, static_cast<int32_t>(ids.size())};
  std::vector<float> want(ids.size());
  model->target_log_probabilities({ids, offsets}, targets, want);
  REQUIRE(got.tokens.size() + 1 == ids.size());
  for (size_t t = 0; t < got.tokens.size(); ++t)
    CHECK(got.tokens[t].log_probability == doctest::Approx(want[t]).epsilon(1e-5));
  double sum = 0;
  for (const float value : got.next_log_probabilities) sum += std::exp(static_cast<double>(value));
  CHECK(sum == doctest::Approx(1).epsilon(1e-5));
  CHECK(got.weights.empty());
}

TEST_CASE("a sequence may mix the experts in its own way beside others") {
  CpuDevice device;
  const ExpertSet experts = golden_experts();
  const GenerationOptions options{.new_tokens_max = 12, .sampling = {.greedy = true}, .ignore_eos = true};
  const std::vector<int32_t> prompt = {524, 421, 453, 539};
  const auto alone = ensemble_scorer(device, experts, {1, 0.1, 2}, {});
  const Generated want = generate(*alone, &experts.tokenizer(), {prompt}, options).front();
  const auto scorer = ensemble_scorer(device, experts, {4, 0.5, 2}, {});
  Session session(*scorer, &experts.tokenizer());
  session.add({.prompt = prompt, .mixing = std::nullopt, .options = options, .on_text = {}});
  session.add({.prompt = prompt,
               .mixing = SequenceMixing{{1, 0.1, 2}, {}, experts.present()},
               .options = options,
               .on_text = {}});
  session.add(
      {.prompt = prompt, .mixing = SequenceMixing{{4, 0.1, 2}, {}, {0, 0, 1, 0}}, .options = options, .on_text = {}});
  while (!session.idle()) session.step();
  CHECK(session.remove(1).ids == want.ids);
  for (const std::vector<double>& weights : session.remove(2).weights)
    CHECK(weights == std::vector<double>{0, 0, 1, 0});
}

}  // namespace
}  // namespace cbtm
