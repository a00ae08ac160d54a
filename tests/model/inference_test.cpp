#include "cbtm/model/inference.h"

#include "cbtm/base/error.h"
#include "cbtm/model/families.h"
#include "cbtm/model/sampling.h"
#include "tests/model/golden_model.h"
#include "tests/model/rounding_bound.h"
#include "tests/model/sequences.h"

namespace cbtm {
namespace {

TEST_CASE("logits of every golden model and layout") {
  for (const auto& folder : std::filesystem::directory_iterator(kGoldenModels)) {
    const TensorFile golden = TensorFile::open(folder.path() / "forward.safetensors");
    for (const auto& kind : std::filesystem::directory_iterator(folder.path())) {
      if (!kind.is_directory()) continue;
      CAPTURE(kind.path().string());
      const bool rounded = kind.path().filename().string().find("bf16") != std::string::npos;
      const auto model = InferenceModel::load(test_device(), kind.path());
      for (const StoredTensor& tensor : golden.tensors()) {
        if (!tensor.name.ends_with(".ids")) continue;
        const std::string name = tensor.name.substr(0, tensor.name.size() - 4);
        if (rounded != (name == "bf16")) continue;
        CAPTURE(name);
        // Padding has no place in packed sequences: real tokens only, each row by itself.
        const std::vector<int32_t> ids = tensor.values<int32_t>();
        const std::vector<int32_t> mask = golden.find(name + ".mask") != nullptr
                                              ? golden.at(name + ".mask").values<int32_t>()
                                              : std::vector<int32_t>(ids.size(), 1);
        Sequences sequences;
        const auto width = static_cast<size_t>(tensor.shape[1]);
        for (size_t row = 0; row < static_cast<size_t>(tensor.shape[0]); ++row) {
          std::vector<int32_t> real;
          for (size_t t = row * width; t < (row + 1) * width; ++t)
            if (mask[t] != 0) real.push_back(ids[t]);
          sequences.add(real);
        }
        const StoredTensor* logits = golden.find(name + ".logits");
        if (logits == nullptr) logits = &golden.at(name + ".logits_where_mask");
        const std::vector<float> want = logits->values<float>();
        CHECK(largest_difference(logits_of(*model, sequences.packed()), want) <=
              logit_tolerance(read_model_spec(kind.path() / "config.json"), tensor.shape[1], want));
      }
    }
  }
}

TEST_CASE("greedy generation with the cache gives the golden tokens, alone, together and with prompts in pieces") {
  for (const char* name : {"tiny-preln", "tiny-postln-proj"}) {
    CAPTURE(name);
    const TensorFile golden = TensorFile::open(kGoldenModels / name / "generate.safetensors");
    const auto model = InferenceModel::load(test_device(), kGoldenModels / name / "safetensors-f32");
    std::vector<std::vector<int32_t>> prompts, tokens;
    for (int i = 0; golden.find(std::to_string(i) + ".prompt") != nullptr; ++i) {
      prompts.push_back(golden.at(std::to_string(i) + ".prompt").values<int32_t>());
      tokens.push_back(golden.at(std::to_string(i) + ".tokens").values<int32_t>());
    }
    REQUIRE(!prompts.empty());
    for (size_t i = 0; i < prompts.size(); ++i)
      CHECK(continue_greedily(*model, {prompts[i]}, tokens[i].size(), 1000)[0] == tokens[i]);
    for (const size_t piece : {1, 3, 100}) {
      const auto together = continue_greedily(*model, prompts, tokens[0].size(), piece);
      for (size_t i = 0; i < prompts.size(); ++i) CHECK(together[i] == tokens[i]);
    }
  }
}

TEST_CASE("target log-probabilities are the log-softmax of the logits") {
  const auto model = InferenceModel::load(test_device(), kGoldenModels / "tiny-preln/bin-f16");
  Sequences sequences;
  sequences.add(std::vector<int32_t>{5, 6, 7, 8});
  sequences.add(std::vector<int32_t>{9});
  const std::vector<int32_t> targets = {6, 7, -100, 3, 4};
  std::vector<float> got(5);
  model->target_log_probabilities(sequences.packed(), targets, got);
  const std::vector<float> logits = logits_of(*model, sequences.packed());
  const auto vocab = static_cast<size_t>(model->vocab_size());
  for (size_t r = 0; r < 5; ++r) {
    if (targets[r] == -100) {
      CHECK(got[r] == 0);
      continue;
    }
    double sum = 0;
    for (size_t v = 0; v < vocab; ++v) sum += std::exp(static_cast<double>(logits[r * vocab + v]));
    CHECK(static_cast<double>(got[r]) ==
          doctest::Approx(static_cast<double>(logits[r * vocab + static_cast<size_t>(targets[r])]) - std::log(sum))
              .epsilon(1e-5));
  }
}

TEST_CASE("ids outside the vocabulary and too long sequences are refused") {
  const auto model = InferenceModel::load(test_device(), kGoldenModels / "tiny-preln/bin-f16");
  const int64_t vocab = model->vocab_size();
  Sequences bad;
  bad.add(std::vector<int32_t>{static_cast<int32_t>(vocab)});
  std::vector<float> out(static_cast<size_t>(vocab));
  CHECK_THROWS_AS(model->logits(bad.packed(), out), Error);
  Sequences longer;
  longer.add(std::vector<int32_t>(static_cast<size_t>(model->max_length()) + 1, 3));
  std::vector<float> many(longer.ids.size() * static_cast<size_t>(vocab));
  CHECK_THROWS_AS(model->logits(longer.packed(), many), Error);
}

TEST_CASE("sampling equals the golden distributions") {
  const std::filesystem::path folder = std::filesystem::path(CBTM_TEST_DATA) / "opt/ops";
  const Json manifest = read_json_file(folder / "manifest.json");
  for (const auto& [name, entry] : manifest["cases"].items()) {
    if (entry["op"] != "sampling") continue;
    CAPTURE(name);
    const std::string file_name = entry["file"];
    const TensorFile file = TensorFile::open(folder / file_name);
    const SamplingOptions options{.filter = {.temperature = entry.value("temperature", 1.0),
                                             .top_k = entry.value("top_k", 0),
                                             .top_p = entry.value("top_p", 1.0)},
                                  .repetition_penalty = entry.value("repetition_penalty", 1.0)};
    const auto rows = static_cast<size_t>(entry["rows"].get<int>()),
               vocab = static_cast<size_t>(entry["vocab"].get<int>()),
               seen_count = static_cast<size_t>(entry["seen"].get<int>());
    auto scores = file.at("logits").values<float>();
    const auto want = file.at("probabilities").values<float>();
    const auto seen = file.at("seen").values<int32_t>();
    for (size_t r = 0; r < rows; ++r)
      next_token_distribution(std::span(scores).subspan(r * vocab, vocab),
                              std::span(seen).subspan(r * seen_count, seen_count), options);
    CHECK(largest_difference(scores, want) <= 1e-6);
    for (size_t i = 0; i < want.size(); ++i) CHECK((scores[i] > 0) == (want[i] > 0));
  }
}

}  // namespace
}  // namespace cbtm
