#include "cbtm/plan/corpus_survey.h"

#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <set>

#include "cbtm/base/error.h"
#include "cbtm/base/philox.h"
#include "cbtm/tokenizer/trainer.h"
#include "plan/text_sample.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

/// Texts of some words each, all different.
std::vector<std::string> some_texts(size_t count, uint64_t seed) {
  const char* const words[] = {"oven", "flour", "galaxy", "comet", "ledger", "tariff", "basil", "orbit"};
  PhiloxStream random(seed, 0);
  std::vector<std::string> texts;
  for (size_t i = 0; i < count; ++i) {
    std::string text = "document " + std::to_string(seed) + "-" + std::to_string(i);
    for (uint64_t word = 5 + random.next_below(60); word > 0; --word)
      text += std::string(" ") + words[random.next_below(8)];
    texts.push_back(text);
  }
  return texts;
}

void write_lines(const std::filesystem::path& path, const std::vector<std::string>& texts) {
  std::ofstream file(path);
  for (const std::string& text : texts) file << Json{{"text", text}}.dump() << '\n';
}

Tokenizer tiny_tokenizer() {
  TokenizerTrainer trainer;
  trainer.add(some_texts(50, 99));
  return trainer.train({.vocab_size = 300});
}

SurveyOptions options_of(const std::vector<std::string>& paths) {
  SurveyOptions options{.vocab_size = 300};
  options.corpus.paths = paths;
  return options;
}

TEST_CASE("a small corpus is counted to the token") {
  const TemporaryDirectory directory;
  const std::vector<std::string> texts = some_texts(200, 1);
  write_lines(directory / "a.jsonl", texts);
  const Tokenizer tokenizer = tiny_tokenizer();
  const CorpusSurvey survey = survey_corpus(options_of({(directory / "a.jsonl").string()}), &tokenizer);
  int64_t tokens = 0, bytes = 0, within = 0;
  for (const std::string& text : texts) {
    const auto length = static_cast<int64_t>(tokenizer.encode(text).size()) + 1;
    tokens += length;
    within += std::min<int64_t>(length, 40);
    bytes += static_cast<int64_t>(text.size());
  }
  CHECK(survey.whole);
  CHECK(survey.documents == 200);
  CHECK(survey.text_bytes == bytes);
  CHECK(survey.encoded_documents == 200);
  CHECK(survey.tokens == static_cast<double>(tokens));
  CHECK(survey.tokens_error == 0);
  CHECK_FALSE(survey.tokenizer_learnt);
  CHECK(survey.share_within(40) == doctest::Approx(static_cast<double>(within) / static_cast<double>(tokens)));
  CHECK(survey.share_within(100'000) == 1);
}

TEST_CASE("tokens of a sample are within a few standard errors of those of all") {
  const TemporaryDirectory directory;
  const std::vector<std::string> texts = some_texts(3000, 2);
  write_lines(directory / "a.jsonl", texts);
  const Tokenizer tokenizer = tiny_tokenizer();
  SurveyOptions options = options_of({(directory / "a.jsonl").string()});
  const double all = survey_corpus(options, &tokenizer).tokens;
  options.encode_bytes_max = 60'000;
  const CorpusSurvey sampled = survey_corpus(options, &tokenizer);
  CHECK(sampled.whole);
  CHECK(sampled.encoded_documents < 600);
  CHECK(sampled.encoded_documents > 100);
  CHECK(sampled.tokens_error > 0);
  CHECK(std::abs(sampled.tokens - all) < 5 * sampled.tokens_error);
  CHECK(sampled.tokens_error < 0.02 * all);
}

TEST_CASE("of a corpus larger than what may be read, the beginnings of the files are scaled") {
  const TemporaryDirectory directory;
  for (int file = 0; file < 3; ++file)
    write_lines(directory / (std::to_string(file) + ".jsonl"), some_texts(12'000, 10 + static_cast<uint64_t>(file)));
  SurveyOptions options = options_of({directory.path().string()});
  const Tokenizer tokenizer = tiny_tokenizer();
  const CorpusSurvey counted = survey_corpus(options, &tokenizer);
  REQUIRE(counted.whole);
  REQUIRE(counted.documents == 36'000);
  options.read_bytes_max = int64_t{3} << 20;  // of about 8 MiB
  const CorpusSurvey estimated = survey_corpus(options, &tokenizer);
  CHECK_FALSE(estimated.whole);
  CHECK(estimated.bytes_read < counted.bytes_read);
  CHECK(estimated.bytes_on_disk == counted.bytes_on_disk);
  CHECK(static_cast<double>(estimated.documents) == doctest::Approx(36'000).epsilon(0.02));
  CHECK(static_cast<double>(estimated.text_bytes) ==
        doctest::Approx(static_cast<double>(counted.text_bytes)).epsilon(0.02));
  CHECK(estimated.tokens == doctest::Approx(counted.tokens).epsilon(0.03));
}

TEST_CASE("without a tokenizer one is learnt from other documents than those that are counted") {
  const TemporaryDirectory directory;
  write_lines(directory / "a.jsonl", some_texts(400, 3));
  const CorpusSurvey survey = survey_corpus(options_of({(directory / "a.jsonl").string()}), nullptr);
  CHECK(survey.tokenizer_learnt);
  CHECK(survey.vocab_size == 300);
  CHECK(survey.encoded_documents == 200);
  CHECK(survey.sample.size() == 400);
  CHECK(survey.tokens > 400);
}

TEST_CASE("a corpus without documents is refused") {
  const TemporaryDirectory directory;
  std::ofstream(directory / "empty.jsonl") << "";
  CHECK_THROWS_AS(survey_corpus(options_of({(directory / "empty.jsonl").string()}), nullptr), Error);
  CHECK_THROWS_WITH_AS(survey_corpus(options_of({(directory / "none.jsonl").string()}), nullptr),
                       doctest::Contains("none.jsonl"), Error);
}

TEST_CASE("a sample of texts depends on the texts alone") {
  const std::vector<std::string> texts = some_texts(500, 4);
  TextSample forward(5000, 7), backward(5000, 7), all(1 << 20, 7);
  for (const std::string& text : texts) forward.add(text);
  for (auto text = texts.rbegin(); text != texts.rend(); ++text) backward.add(*text);
  for (const std::string& text : texts) all.add(text);
  CHECK_FALSE(forward.whole());
  CHECK(all.whole());
  CHECK(all.take() == texts);
  const std::vector<std::string> drawn = forward.take(), reversed = backward.take();
  CHECK(std::set<std::string>(drawn.begin(), drawn.end()) == std::set<std::string>(reversed.begin(), reversed.end()));
  size_t bytes = 0;
  for (const std::string& text : drawn) bytes += text.size();
  CHECK(bytes <= 5000);
  CHECK(bytes > 1000);
}

}  // namespace
}  // namespace cbtm
