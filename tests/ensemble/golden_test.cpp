// The ensemble against a reference that re-embeds every prefix and runs every expert in float64.

#include <doctest/doctest.h>

#include <cmath>

#include "cbtm/base/error.h"
#include "cbtm/base/json.h"
#include "cbtm/ensemble/evaluate.h"
#include "cbtm/ensemble/expert_set.h"
#include "cbtm/ensemble/session.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/tensor_file/tensor_file.h"
#include "tests/ensemble/golden_ensemble.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

Device& device() {
  static const std::unique_ptr<Device> cpu = make_cpu_device();
  return *cpu;
}

TEST_CASE("perplexities of every schedule, power and top-k") {
  const ExpertSet experts = golden_experts();
  const auto documents = golden_documents();
  const Json manifest = read_json_file(kGolden / "manifest.json");
  for (const auto& [mode, text] :
       {std::pair{"token", "token"}, {"lagged", "lagged"}, {"every4", "every:4"}, {"half", "fraction:0.5"}}) {
    EvaluationOptions options{.routing = parse_routing_mode(text)};
    for (const int power : {2, 4})
      for (const int top : {1, 2, 4}) options.mixtures.push_back({top, 0.1, static_cast<double>(power)});
    const Evaluation evaluation = evaluate_ensemble(device(), experts, documents, options);
    size_t m = 0;
    for (const int power : {2, 4})
      for (const int top : {1, 2, 4}) {
        const Score& score = evaluation.scores[m++];
        const std::string key = std::string(mode) + ".power" + std::to_string(power) + ".top" + std::to_string(top);
        CAPTURE(key);
        CHECK(score.perplexity() == doctest::Approx(manifest["perplexity"][key].get<double>()).epsilon(1e-5));
        for (size_t d = 0; d < documents.size(); ++d) {
          const DocumentScore& document = score.documents[d];
          CHECK(document.tokens == manifest["documents"][d]["tokens_scored"].get<int64_t>());
          CHECK(std::exp(document.negative_log_likelihood / static_cast<double>(document.tokens)) ==
                doctest::Approx(manifest["documents"][d][key].get<double>()).epsilon(1e-5));
        }
      }
  }
}

TEST_CASE("every token's weights and log-probability") {
  const ExpertSet experts = golden_experts();
  const auto documents = golden_documents();
  for (const int top : {1, 2, 4}) {
    EvaluationOptions options{.mixtures = {{top, 0.1, 2}}};
    size_t d = 0;
    options.token_details = [&](const EvaluationDocument&, const TokenDetails& details) {
      const std::vector<double>&log_probabilities = details.log_probabilities, &weights = details.weights;
      const TensorFile golden = TensorFile::open(kGolden / ("document_" + std::to_string(d++) + ".safetensors"));
      const std::string suffix = ".power2.top" + std::to_string(top);
      const auto want = golden.at("mixed_target_log_probability" + suffix).values<double>();
      const auto want_weights = golden.at("weights" + suffix).values<double>();
      REQUIRE(log_probabilities.size() == want.size());
      for (size_t t = 0; t < want.size(); ++t) CHECK(std::abs(log_probabilities[t] - want[t]) <= 1e-4);
      for (size_t i = 0; i < weights.size(); ++i)
        CHECK(std::abs(weights[i] - want_weights[i + 4]) <= 1e-5);  // row n = 1 first
    };
    evaluate_ensemble(device(), experts, documents, options);
    CHECK(d == 3);
  }
}

TEST_CASE("one model and the matrix give each expert's own perplexity") {
  const ExpertSet experts = golden_experts();
  const auto documents = golden_documents();
  const Json manifest = read_json_file(kGolden / "manifest.json");
  for (size_t j = 0; j < 4; ++j) {
    const auto model = experts.load(device(), static_cast<int64_t>(j));
    const Evaluation evaluation = evaluate_model(*model, documents, 0);
    for (size_t d = 0; d < 3; ++d) {
      const DocumentScore& document = evaluation.scores[0].documents[d];
      CHECK(std::exp(document.negative_log_likelihood / static_cast<double>(document.tokens)) ==
            doctest::Approx(manifest["documents"][d]["expert_perplexity"][j].get<double>()).epsilon(1e-5));
    }
  }
  auto labelled = documents;
  for (size_t d = 0; d < 3; ++d) labelled[d].cluster = static_cast<int64_t>(d);
  const Evaluation evaluation =
      evaluate_ensemble(device(), experts, labelled, {.mixtures = {{1, 0.1, 2}}, .matrix = true});
  for (size_t j = 0; j < 4; ++j) {
    for (size_t d = 0; d < 3; ++d)
      CHECK(evaluation.matrix[j][d] ==
            doctest::Approx(manifest["documents"][d]["expert_perplexity"][j].get<double>()).epsilon(1e-5));
    CHECK(std::isnan(evaluation.matrix[j][3]));
  }
}

TEST_CASE("next-token distributions and greedy generation of the mixture") {
  const ExpertSet experts = golden_experts();
  const auto documents = golden_documents();
  for (size_t d = 0; d < 3; ++d) {
    const TensorFile golden = TensorFile::open(kGolden / ("document_" + std::to_string(d) + ".safetensors"));
    const auto positions = golden.at("next.positions").values<int64_t>();
    const auto want = golden.at("next.log_probabilities").values<float>();
    for (size_t p = 0; p < positions.size(); ++p) {
      const auto scorer = ensemble_scorer(device(), experts, {2, 0.1, 2}, {});
      const std::vector<int64_t> sequences = {
          scorer->open({documents[d].ids.begin(), documents[d].ids.begin() + positions[p]})};
      CHECK(scorer->read(sequences, 512) == sequences);
      std::vector<float> scores;
      scorer->score(sequences, scores);
      for (size_t v = 0; v < scores.size(); ++v)
        CHECK(std::abs(static_cast<double>(scores[v]) - static_cast<double>(want[p * scores.size() + v])) <= 1e-4);
    }
  }
  const Json cases = read_json_file(kGolden / "generate.json");
  for (const Json& golden : cases) {
    const auto prompt = golden["prompt_ids"].get<std::vector<int32_t>>();
    const auto want = golden["new_ids"].get<std::vector<int32_t>>();
    const auto scorer =
        ensemble_scorer(device(), experts, {golden["topk"].get<int64_t>(), 0.1, golden["power"].get<double>()}, {});
    const auto got = generate(
        *scorer, &experts.tokenizer(), {prompt},
        {.new_tokens_max = static_cast<int64_t>(want.size()), .sampling = {.greedy = true}, .ignore_eos = true});
    CHECK(got[0].ids == want);
    for (size_t t = 0; t < want.size(); ++t) {
      std::vector<int64_t> used;
      for (size_t j = 0; j < 4; ++j)
        if (got[0].weights[t][j] > 0) used.push_back(static_cast<int64_t>(j));
      auto expected = golden["experts_used"][t].get<std::vector<int64_t>>();
      std::sort(expected.begin(), expected.end());
      CHECK(used == expected);
    }
  }
}

TEST_CASE("several prompts at once give what each gives alone; seeds repeat; stop strings cut") {
  const ExpertSet experts = golden_experts();
  const std::vector<std::vector<int32_t>> prompts = {{896}, {524, 421, 453, 539}, {43, 40, 36}};
  const GenerationOptions options{
      .new_tokens_max = 12, .sampling = {.filter = {.temperature = 0.8, .top_k = 20}}, .ignore_eos = true, .seed = 5};
  const auto run = [&](const std::vector<std::vector<int32_t>>& some, const GenerationOptions& chosen,
                       const std::function<void(size_t, const std::string&)>& on_text = {}) {
    return generate(*ensemble_scorer(device(), experts, {2, 0.1, 2}, {}), &experts.tokenizer(), some, chosen, on_text);
  };
  const auto together = run(prompts, options);
  CHECK(run({prompts[0]}, options)[0].ids == together[0].ids);
  CHECK(run(prompts, options)[2].ids == together[2].ids);
  GenerationOptions greedy{.new_tokens_max = 12, .sampling = {.greedy = true}, .ignore_eos = true};
  const auto batch = run(prompts, greedy);
  for (size_t p = 0; p < 3; ++p) CHECK(run({prompts[p]}, greedy)[0].ids == batch[p].ids);
  std::string streamed[3];
  const auto stream = [&](size_t prompt, const std::string& piece) { streamed[prompt] += piece; };
  const auto streaming = run(prompts, greedy, stream);
  for (size_t p = 0; p < 3; ++p) CHECK(streamed[p] == streaming[p].text);
  const std::string text = streaming[0].text;
  greedy.stop = {text.substr(4, 3)};
  streamed[0].clear();
  const Generated cut = run({prompts[0]}, greedy, stream)[0];
  CHECK(cut.finish == "stop");
  CHECK(cut.text == text.substr(0, text.find(text.substr(4, 3))));
  CHECK(streamed[0] == cut.text);
  CHECK_THROWS_AS(run({{}}, greedy), Error);
  CHECK_THROWS_AS(run({{99'999}}, greedy), Error);
}

TEST_CASE("averaged parameters give the golden logits") {
  const ExpertSet experts = golden_experts();
  const TensorFile golden = TensorFile::open(kGolden / "parameter_average.safetensors");
  for (const std::string kind : {"uniform", "weighted"}) {
    const auto weights = golden.at(kind + ".weights").values<double>();
    const TemporaryDirectory directory;
    const ModelSpec config = read_model_spec(experts.expert_of(0).directory / "config.json");
    write_model_checkpoint(directory.path(), config, average_parameters(experts, weights));
    const auto model = InferenceModel::load(device(), directory.path());
    const auto ids = golden.at(kind + ".ids").values<int32_t>();
    const std::vector<int32_t> offsets = {0, static_cast<int32_t>(ids.size())};
    std::vector<float> logits(ids.size() * static_cast<size_t>(config.embedding.vocab_size));
    model->logits({ids, offsets}, logits);
    const auto want = golden.at(kind + ".logits").values<float>();
    REQUIRE(want.size() == logits.size());
    for (size_t i = 0; i < want.size(); ++i)
      CHECK(std::abs(static_cast<double>(want[i]) - static_cast<double>(logits[i])) <= 1e-4);
  }
}

TEST_CASE("experts of different architectures are not averaged, though they hold as many weights") {
  const TemporaryDirectory directory;
  std::filesystem::copy(kGolden / "experts", directory.path() / "experts", std::filesystem::copy_options::recursive);
  const std::filesystem::path config = directory.path() / "experts/002/config.json";
  Json changed = read_json_file(config);
  changed["activation_function"] = "gelu";
  write_json_file(config, changed);
  const ExpertSet experts =
      ExpertSet::open({.experts = directory.path() / "experts", .router = kGolden / "router", .tokenizer = kTokenizer});
  CHECK_THROWS_WITH_AS(average_parameters(experts, {0.25, 0.25, 0.25, 0.25}), doctest::Contains("another architecture"),
                       Error);
}

TEST_CASE("a subset of experts shares the weights; all of k equals top-k of k") {
  const TemporaryDirectory directory;
  std::filesystem::copy(kGolden / "experts/001", directory.path() / "001", std::filesystem::copy_options::recursive);
  std::filesystem::copy(kGolden / "experts/003", directory.path() / "003", std::filesystem::copy_options::recursive);
  const ExpertSet some =
      ExpertSet::open({.experts = directory.path(), .router = kGolden / "router", .tokenizer = kTokenizer});
  CHECK(some.present() == std::vector<uint8_t>{0, 1, 0, 1});
  const Evaluation evaluation =
      evaluate_ensemble(device(), some, golden_documents(), {.mixtures = {{2, 0.1, 2}, {99, 0.1, 2}}});
  CHECK(evaluation.scores[0].negative_log_likelihood == evaluation.scores[1].negative_log_likelihood);
  for (const DocumentScore& document : evaluation.scores[0].documents) {
    CHECK(document.expert_weights[1] + document.expert_weights[3] == doctest::Approx(1));
    CHECK(document.expert_weights[0] == 0);
  }
  CHECK_THROWS_WITH_AS(ExpertSet::open({.experts = directory.path(), .tokenizer = kTokenizer}),
                       doctest::Contains("--router"), Error);
  CHECK_THROWS_AS(ExpertSet::open({.experts = directory.path() / "nowhere"}), Error);
}

}  // namespace
}  // namespace cbtm
