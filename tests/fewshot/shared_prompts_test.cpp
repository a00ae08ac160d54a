// Prompts that begin alike share their caches: the same bits of every score, from fewer tokens that are read.

#include <doctest/doctest.h>

#include "cbtm/fewshot/few_shot.h"
#include "tests/ensemble/golden_ensemble.h"

namespace cbtm {
namespace {

/// A model that counts the tokens which it is given to read.
class CountingModel final : public InferenceModel {
 public:
  explicit CountingModel(std::unique_ptr<InferenceModel> model) : model_(std::move(model)) {}
  int64_t tokens_read() const { return tokens_read_; }

  int64_t vocab_size() const override { return model_->vocab_size(); }
  int64_t max_length() const override { return model_->max_length(); }
  const std::vector<int64_t>& end_tokens() const override { return model_->end_tokens(); }
  const std::string& identity() const override { return model_->identity(); }
  int64_t key_value_bytes() const override { return model_->key_value_bytes(); }
  int64_t weight_bytes() const override { return model_->weight_bytes(); }
  void need_now() override { model_->need_now(); }
  void need_next() override { model_->need_next(); }
  void logits(const PackedTokens& tokens, std::span<float> out) override { model_->logits(tokens, out); }
  void target_log_probabilities(const PackedTokens& tokens, std::span<const int32_t> targets,
                                std::span<float> out) override {
    model_->target_log_probabilities(tokens, targets, out);
  }
  int64_t open_sequence() override { return model_->open_sequence(); }
  void close_sequence(int64_t handle) override { model_->close_sequence(handle); }
  int64_t sequence_length(int64_t handle) const override { return model_->sequence_length(handle); }
  int64_t shared_page_tokens() const override { return model_->shared_page_tokens(); }
  void begin_prompt(int64_t handle, std::span<const int32_t> prompt, int64_t unit) override {
    model_->begin_prompt(handle, prompt, unit);
  }
  void share_prompt(int64_t handle, std::span<const int32_t> prompt, int64_t unit) override {
    model_->share_prompt(handle, prompt, unit);
  }
  void reserve(int64_t handle, int64_t tokens) override { model_->reserve(handle, tokens); }
  ConstTensorView read(std::span<const ReadPass> passes) override {
    for (const ReadPass& pass : passes) tokens_read_ += static_cast<int64_t>(pass.ids.size());
    return model_->read(passes);
  }
  bool prompts_share_passes() const override { return model_->prompts_share_passes(); }
  Device& device() override { return model_->device(); }

 private:
  std::unique_ptr<InferenceModel> model_;
  int64_t tokens_read_ = 0;
};

/// Two demonstrations of about 60 tokens each, then short inputs; labels of one and of several tokens.
FewShotTask example_task(int64_t max_length) {
  FewShotTask task{.name = "shared",
                   .labels = {"LORD", "king of the hill", "queen of stars", "x"},
                   .suffix = " The topic is",
                   .separator = "\n\n",
                   .shots = 2,
                   .seeds = {3, 4},
                   .max_length = max_length};
  for (int i = 0; i < 4; ++i)
    task.train.push_back({"The orbit number " + std::to_string(i) + " of the planet is long and far away", i});
  for (int i = 0; i < 6; ++i) task.test.push_back({"A king " + std::to_string(i * 7), i % 4});
  return task;
}

struct Scored {
  FewShotResult result;
  int64_t tokens_read = 0;
  int64_t cache_bytes = 0;  ///< of pages that are kept after all
};

Scored score(const FewShotTask& task, bool shared) {
  static const std::unique_ptr<Device> device = make_cpu_device();
  static const ExpertSet experts = golden_experts();
  const auto memory = std::make_shared<ModelMemory>(*device, 1 << 26, 1);
  if (shared) share_prompts(*memory);
  CountingModel model(experts.load(*device, 1, memory));
  Scored scored;
  scored.result = few_shot(model, experts.tokenizer(), task, {});
  scored.tokens_read = model.tokens_read();
  scored.cache_bytes = memory->statistics().prompt_cache.bytes;
  return scored;
}

void check_same(const FewShotResult& a, const FewShotResult& b) {
  CHECK(a.suffix == b.suffix);
  REQUIRE(a.systems.size() == b.systems.size());
  for (size_t s = 0; s < a.systems.size(); ++s)
    for (size_t q = 0; q < a.systems[s].scores.size(); ++q)
      for (size_t i = 0; i < a.systems[s].scores[q].size(); ++i) {
        CHECK(a.systems[s].scores[q][i].lm == b.systems[s].scores[q][i].lm);
        CHECK(a.systems[s].scores[q][i].pmi == b.systems[s].scores[q][i].pmi);
      }
}

TEST_CASE("prompts that share their beginnings have the same scores, bit for bit, from a fraction of the tokens") {
  const FewShotTask task = example_task(190);
  const Scored whole = score(task, false), shared = score(task, true);
  REQUIRE(whole.result.truncated_prompts.at(0) == 0);
  check_same(whole.result, shared.result);
  CHECK(shared.tokens_read < whole.tokens_read / 3);
  CHECK(shared.cache_bytes == 0);
}

TEST_CASE("prompts that lost their first tokens are scored as they are") {
  const FewShotTask task = example_task(60);
  const Scored whole = score(task, false), shared = score(task, true);
  REQUIRE(whole.result.truncated_prompts.at(0) > 0);
  check_same(whole.result, shared.result);
  CHECK(shared.tokens_read <= whole.tokens_read);
}

TEST_CASE("the experts of an ensemble share within each of them") {
  const auto device = make_cpu_device();
  const ExpertSet experts = golden_experts();
  const FewShotTask task = example_task(190);
  const FewShotOptions options{.mixtures = {{2, 0.1, 2}, {4, 0.1, 2}}};
  ExpertPool whole(*device, experts, 1 << 26), shared(*device, experts, 1 << 26);
  share_prompts(shared.memory());
  check_same(few_shot(whole, task, options), few_shot(shared, task, options));
}

}  // namespace
}  // namespace cbtm
