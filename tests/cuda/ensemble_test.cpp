// Models and ensembles on the CUDA device: scores, distributions and generated tokens are those of the CPU device.

#include <doctest/doctest.h>

#include <cmath>

#include "cbtm/ensemble/evaluate.h"
#include "cbtm/ensemble/session.h"
#include "cuda_device.h"
#include "tests/cuda/half_precision.h"
#include "tests/ensemble/golden_ensemble.h"
#include "tests/model/rounding_bound.h"
#include "tests/model/sequences.h"

namespace cbtm {
namespace {

const std::filesystem::path kModels = std::filesystem::path(CBTM_TEST_DATA) / "opt/models";

Device& cuda() {
  static const std::unique_ptr<Device> device = make_cuda_device(0);
  return *device;
}
Device& cpu() {
  static const std::unique_ptr<Device> device = make_cpu_device();
  return *device;
}

void check_close(std::span<const float> got, std::span<const float> want, double tolerance) {
  REQUIRE(got.size() == want.size());
  double largest = 0;
  for (size_t i = 0; i < got.size(); ++i)
    largest = std::max(largest, std::abs(static_cast<double>(got[i]) - static_cast<double>(want[i])));
  CHECK(largest <= tolerance);
}

/// Of any golden expert in any golden document.
struct LogitSizes {
  double largest = 0, root_mean_square = 0;
};
LogitSizes logit_sizes() {
  LogitSizes sizes;
  double squares = 0, count = 0;
  for (int expert = 0; expert < 4; ++expert) {
    const auto model = InferenceModel::load(cpu(), kGolden / "experts" / ("00" + std::to_string(expert)));
    for (const EvaluationDocument& document : golden_documents()) {
      const size_t length = std::min(document.ids.size(), static_cast<size_t>(model->max_length()));
      Sequences sequence;
      sequence.add(std::span(document.ids).first(length));
      for (const float logit : logits_of(*model, sequence.packed())) {
        sizes.largest = std::max(sizes.largest, std::abs(static_cast<double>(logit)));
        squares += static_cast<double>(logit) * static_cast<double>(logit);
        count += 1;
      }
    }
  }
  sizes.root_mean_square = std::sqrt(squares / count);
  return sizes;
}

TEST_CASE("evaluation: log-probability of every target, perplexity and matrix") {
  const auto documents = golden_documents();
  const ModelSpec spec = read_model_spec(kGolden / "experts/000/config.json");
  const LogitSizes sizes = logit_sizes();
  for (const WeightFormat weights : {WeightFormat::f32, WeightFormat::bf16, WeightFormat::int8, WeightFormat::int4}) {
    CAPTURE(weight_format_name(weights));
    // A log-probability is the difference of a logit and the logarithm of a sum over all, which are off alike. With
    // other weights than float32 the CUDA device stores activations in 16 bits, which the CPU does not: two independent
    // errors, of which the largest among some hundreds of targets is within 5 deviations.
    const double unit = half_type() == DType::bf16 ? 0x1p-8 : 0x1p-11;
    const double tolerance =
        weights == WeightFormat::f32
            ? 2 * 2 * logit_error(spec, spec.embedding.max_length) * sizes.largest
            : 5 * std::sqrt(2.0) * stored_activations_deviation(spec, unit) * sizes.root_mean_square;
    const ExpertSet experts = golden_experts(weights);
    double largest = 0;
    std::vector<std::vector<double>> of_device[2];
    const auto evaluate = [&](Device& device, size_t number) {
      EvaluationOptions options{.mixtures = {{2, 0.1, 2}}, .matrix = true};
      options.token_details = [&](const EvaluationDocument&, const TokenDetails& details) {
        of_device[number].push_back(details.log_probabilities);
      };
      return evaluate_ensemble(device, experts, documents, options);
    };
    const Evaluation want = evaluate(cpu(), 0), got = evaluate(cuda(), 1);
    REQUIRE(of_device[1].size() == documents.size());
    for (size_t d = 0; d < documents.size(); ++d) {
      REQUIRE(of_device[1][d].size() == of_device[0][d].size());
      for (size_t t = 0; t < of_device[0][d].size(); ++t)
        largest = std::max(largest, std::abs(of_device[1][d][t] - of_device[0][d][t]));
    }
    CHECK(largest <= tolerance);
    CHECK(got.scores[0].tokens == want.scores[0].tokens);
    // The logarithm of a perplexity is the mean over the targets, whose errors are independent.
    CHECK(std::abs(std::log(got.scores[0].perplexity() / want.scores[0].perplexity())) <=
          tolerance / std::sqrt(static_cast<double>(want.scores[0].tokens)));
    for (size_t expert = 0; expert < want.matrix.size(); ++expert)
      for (size_t cluster = 0; cluster < want.matrix[expert].size(); ++cluster) {
        const double g = got.matrix[expert][cluster], w = want.matrix[expert][cluster];
        CHECK((std::isnan(w) ? std::isnan(g) : std::abs(std::log(g / w)) <= tolerance));
      }
  }
}

TEST_CASE("one model: logits of whole sequences, and of the same sequences in the cache, piece by piece") {
  for (const char* name : {"tiny-preln/safetensors-f32", "tiny-postln-proj/safetensors-f32"}) {
    CAPTURE(name);
    const auto on_cpu = InferenceModel::load(cpu(), kModels / name);
    const auto on_cuda = InferenceModel::load(cuda(), kModels / name);
    std::vector<int32_t> ids;
    for (int32_t i = 0; i < 23; ++i) ids.push_back(4 + i * i % 500);
    const std::vector<int32_t> offsets = {0, 1, 14, 23};
    const auto vocab = static_cast<size_t>(on_cpu->vocab_size());
    std::vector<float> want(ids.size() * vocab), got(want.size());
    on_cpu->logits({ids, offsets}, want);
    on_cuda->logits({ids, offsets}, got);
    const double tolerance = logit_tolerance(read_model_spec(kModels / name / "config.json"), 13, want);
    check_close(got, want, tolerance);

    const std::vector<int64_t> handles = {on_cuda->open_sequence(), on_cuda->open_sequence()};
    std::vector<float> next(2 * vocab);
    const auto extend = [&](std::span<const int32_t> first, std::span<const int32_t> second) {
      std::vector<int32_t> both(first.begin(), first.end());
      both.insert(both.end(), second.begin(), second.end());
      const std::vector<int32_t> ends = {0, static_cast<int32_t>(first.size()), static_cast<int32_t>(both.size())};
      on_cuda->extend(handles, {both, ends}, next);
    };
    const std::span<const int32_t> all(ids), first = all.subspan(1, 13), second = all.subspan(14, 9);
    extend(first.first(12), second.first(7));  // many rows, then one or two
    extend(first.subspan(12), second.subspan(7));
    check_close(std::span(next).first(vocab), std::span(want).subspan(13 * vocab, vocab), tolerance);
    check_close(std::span(next).subspan(vocab), std::span(want).subspan(22 * vocab, vocab), tolerance);
  }
}

TEST_CASE("generation: the CPU's tokens, greedy and drawn") {
  const ExpertSet experts = golden_experts();
  const std::vector<std::vector<int32_t>> prompts = {{896}, {524, 421, 453, 539}, {43, 40, 36}};
  for (const bool greedy : {true, false}) {
    CAPTURE(greedy);
    const auto run = [&](Device& device) {
      return generate(*ensemble_scorer(device, experts, {2, 0.1, 2}, {}), &experts.tokenizer(), prompts,
                      {.new_tokens_max = 10,
                       .sampling = {.greedy = greedy, .filter = {.temperature = 0.8, .top_k = 20, .top_p = 0.9}},
                       .ignore_eos = true,
                       .seed = 5});
    };
    const auto want = run(cpu()), got = run(cuda());
    for (size_t p = 0; p < prompts.size(); ++p) CHECK(got[p].ids == want[p].ids);
  }
}

}  // namespace
}  // namespace cbtm
