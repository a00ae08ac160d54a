// Few-shot scores against a brute force: each label's whole sequence through the model's plain forward pass, by itself,
// log-softmax in float64, and the formulas written out.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "cbtm/base/error.h"
#include "cbtm/fewshot/few_shot.h"
#include "cbtm/route/router.h"
#include "tests/ensemble/golden_ensemble.h"

namespace cbtm {
namespace {

Device& device() {
  static const std::unique_ptr<Device> cpu = make_cpu_device();
  return *cpu;
}

/// Labels of one and of several tokens, of which one begins another; `max_length` cuts most prompts.
FewShotTask task_of(int64_t max_length) {
  FewShotTask task{.name = "brute",
                   .labels = {"LORD", "king", "king of the hill", "king of stars", "x"},
                   .suffix = " The topic is",
                   .separator = "\n\n",
                   .shots = 2,
                   .seeds = {3, uint64_t{1} << 40},
                   .max_length = max_length};
  for (int i = 0; i < 6; ++i)
    task.train.push_back({"The orbit number " + std::to_string(i) + " of the planet is long", i % 5});
  for (int i = 0; i < 4; ++i)
    task.test.push_back(
        {"A network of " + std::to_string(i * 7) + " hackers and the king" + std::string(i * 9, '!'), i});
  return task;
}

/// ln p(label | context), summed over its tokens.
double label_log_probability(InferenceModel& model, std::vector<int32_t> context, const std::vector<int32_t>& label,
                             int64_t max_length) {
  const auto room = static_cast<size_t>(max_length) - label.size();
  if (context.size() > room) context.erase(context.begin(), context.end() - static_cast<int64_t>(room));
  std::vector<int32_t> ids = context;
  ids.insert(ids.end(), label.begin(), label.end());
  const auto vocab = static_cast<size_t>(model.vocab_size());
  std::vector<float> logits(ids.size() * vocab);
  const std::vector<int32_t> offsets = {0, static_cast<int32_t>(ids.size())};
  model.logits({ids, offsets}, logits);
  double result = 0;
  for (size_t t = context.size(); t < ids.size(); ++t) {
    double sum = 0;
    for (size_t v = 0; v < vocab; ++v) sum += std::exp(static_cast<double>(logits[(t - 1) * vocab + v]));
    result += static_cast<double>(logits[(t - 1) * vocab + static_cast<size_t>(ids[t])]) - std::log(sum);
  }
  return result;
}

void check_close(double got, double want) { CHECK(std::abs(got - want) < 1e-4); }  // float32 logits of a few units

TEST_CASE("few-shot scores of a model and of an ensemble equal the formulas") {
  const ExpertSet experts = golden_experts();
  std::vector<std::unique_ptr<InferenceModel>> models;
  for (int64_t j = 0; j < 4; ++j) models.push_back(experts.load(device(), j));
  const Tokenizer& tokenizer = experts.tokenizer();
  for (const int64_t max_length : {40, 190}) {
    CAPTURE(max_length);
    const FewShotTask task = task_of(max_length);
    const LabelTokens tokens = label_tokens(task, tokenizer, experts.max_length());
    CHECK(tokens.labels[2].size() > 2);
    const FewShotResult of_model = few_shot(*models[1], tokenizer, task, {});
    const FewShotOptions options{.mixtures = {{1, 0.1, 2}, {2, 1.0, 4}, {4, 0.1, 2}}};
    ExpertPool pool(device(), experts, 1 << 28);
    const FewShotResult mixed = few_shot(pool, task, options);
    REQUIRE(mixed.systems.size() == 3);
    std::vector<std::vector<int64_t>> right(3, std::vector<int64_t>(3));
    for (size_t q = 0; q < task.seeds.size(); ++q)
      for (size_t i = 0; i < task.test.size(); ++i) {
        const std::string prompt = few_shot_prompt(task, demonstrations(task, task.seeds[q]), task.test[i].input);
        const std::vector<int32_t> ids = tokenizer.encode(prompt);
        const std::unique_ptr<RoutingContext> context = experts.router().context();
        context->append(prompt);
        for (size_t y = 0; y < task.labels.size(); ++y) {
          const std::vector<int32_t>& label = tokens.labels[y];
          std::vector<double> lm, of_suffix;
          for (const auto& model : models) {
            lm.push_back(label_log_probability(*model, ids, label, max_length));
            of_suffix.push_back(label_log_probability(*model, tokens.suffix, label, max_length));
          }
          const LabelScores& one = of_model.systems[0].scores[q][i];
          check_close(one.lm[y], lm[1]);
          check_close(one.length[y], lm[1] / static_cast<double>(label.size()));
          check_close(one.pmi[y], lm[1] - of_suffix[1]);
          for (size_t s = 0; s < options.mixtures.size(); ++s) {
            std::vector<double> weights(4);
            context->weights(options.mixtures[s], experts.present(), weights);
            double sum = 0, suffix_sum = 0;
            for (size_t j = 0; j < 4; ++j) {
              sum += weights[j] * std::exp(lm[j]);
              suffix_sum += weights[j] * std::exp(of_suffix[j]);
            }
            const LabelScores& got = mixed.systems[s].scores[q][i];
            check_close(got.lm[y], std::log(sum));
            check_close(got.length[y], std::log(sum) / static_cast<double>(label.size()));
            check_close(got.pmi[y], std::log(sum) - std::log(suffix_sum));
          }
        }
      }
    for (const FewShotSystem& system : mixed.systems)
      for (size_t kind = 0; kind < 3; ++kind)
        for (size_t q = 0; q < task.seeds.size(); ++q) {
          int64_t correct = 0;
          for (size_t i = 0; i < task.test.size(); ++i) {
            const std::vector<double>& scores = scores_of(system.scores[q][i], kind);
            correct += std::max_element(scores.begin(), scores.end()) - scores.begin() == task.test[i].label;
          }
          CHECK(system.accuracies[kind].by_seed[q] == static_cast<double>(correct) / 4);
        }
    CHECK(mixed.truncated_prompts.at(0) == (max_length == 40 ? 4 : 0));
  }
}

TEST_CASE("token by token: the weights follow the text of the label; whole labels of one token are the same") {
  const ExpertSet experts = golden_experts();
  const FewShotTask task = task_of(190);
  ExpertPool pool(device(), experts, 1 << 28);
  const Mixture mixture{4, 0.1, 2};
  const FewShotResult whole = few_shot(pool, task, {.mixtures = {mixture}});
  std::vector<std::vector<LabelLogProbabilities>> by_expert;
  FewShotOptions options{.mixtures = {mixture}, .token_by_token = true};
  options.details = [&](const FewShotDetails& one) { by_expert.push_back(one.by_expert); };
  const FewShotResult by_token = few_shot(pool, task, options);
  const Tokenizer& tokenizer = experts.tokenizer();
  size_t at = 0;
  for (size_t q = 0; q < task.seeds.size(); ++q)
    for (size_t i = 0; i < task.test.size(); ++i, ++at) {
      const std::string prompt = few_shot_prompt(task, demonstrations(task, task.seeds[q]), task.test[i].input);
      for (size_t y = 0; y < task.labels.size(); ++y) {
        std::string text = prompt;
        double want = 0;
        for (size_t t = 0; t < by_token.tokens.labels[y].size(); ++t) {
          const std::unique_ptr<RoutingContext> context = experts.router().context();
          context->append(text);
          std::vector<double> weights(4);
          context->weights(mixture, experts.present(), weights);
          double sum = 0;
          for (size_t j = 0; j < 4; ++j) sum += weights[j] * std::exp(by_expert[at][j][y][t]);
          want += std::log(sum);
          text += tokenizer.bytes_of(by_token.tokens.labels[y][t]);
        }
        CHECK(std::abs(by_token.systems[0].scores[q][i].lm[y] - want) < 1e-9);
        if (by_token.tokens.labels[y].size() == 1) check_close(want, whole.systems[0].scores[q][i].lm[y]);
      }
    }
}

TEST_CASE("tasks that do not fit the model or the tokenizer") {
  const ExpertSet experts = golden_experts();
  FewShotTask task = task_of(190);
  task.max_length = experts.max_length() + 1;
  CHECK_THROWS_WITH_AS(label_tokens(task, experts.tokenizer(), experts.max_length()), doctest::Contains("positions"),
                       Error);
  task = task_of(2);
  CHECK_THROWS_WITH_AS(label_tokens(task, experts.tokenizer(), experts.max_length()),
                       doctest::Contains("leaves no room for a prompt"), Error);
  task = task_of(190);
  task.suffix = "";
  CHECK_THROWS_WITH_AS(label_tokens(task, experts.tokenizer(), experts.max_length()),
                       doctest::Contains("the suffix is no token"), Error);
}

TEST_CASE("mean and standard error over seeds") {
  const Accuracy accuracy{{0.5, 0.75, 1.0}};
  CHECK(accuracy.mean() == doctest::Approx(0.75));
  CHECK(accuracy.standard_error() == doctest::Approx(0.25 / std::sqrt(3.0)));
  CHECK(std::isnan(Accuracy{{0.5}}.standard_error()));
  CHECK(predicted_label({-3, -1, -1, -2}) == 1);
}

}  // namespace
}  // namespace cbtm
