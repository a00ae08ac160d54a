// Encoding, decoding and training against what Hugging Face's tokenizers do.

#include <doctest/doctest.h>

#include <fstream>

#include "cbtm/base/error.h"
#include "cbtm/base/json.h"
#include "cbtm/tokenizer/tokenizer.h"
#include "cbtm/tokenizer/trainer.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

const std::filesystem::path kGolden = std::filesystem::path(CBTM_TEST_DATA) / "tokenizer";

std::vector<Json> json_lines(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::vector<Json> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(Json::parse(line));
  REQUIRE(!lines.empty());
  return lines;
}

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

TEST_CASE("every golden string is encoded as there, and decoded back") {
  const Tokenizer tokenizer = Tokenizer::load(kGolden / "opt-tiny");
  CHECK(tokenizer.vocab_size() == 1260);
  CHECK(tokenizer.bos_id() == 2);
  CHECK(tokenizer.pad_id() == 1);
  for (const Json& line : json_lines(kGolden / "encode.jsonl")) {
    const auto text = line["text"].get<std::string>();
    CAPTURE(text);
    const auto ids = line["ids"].get<std::vector<int32_t>>();
    CHECK(tokenizer.encode(text, {.add_bos = true, .special_tokens = true}) == ids);
    const auto plain = line.contains("ids_plain") ? line["ids_plain"].get<std::vector<int32_t>>()
                                                  : std::vector<int32_t>(ids.begin() + 1, ids.end());
    CHECK(tokenizer.encode(text) == plain);
    CHECK(tokenizer.decode(plain) == text);
    CHECK(tokenizer.decode(ids, /*skip_special=*/true) == line.value("decoded_skip_special", text));
    StreamingDecoder streaming(tokenizer, /*skip_special=*/false);
    std::string streamed;
    for (const int32_t id : plain) streamed += streaming.push(id);
    CHECK(streamed + streaming.finish() == text);
  }
}

TEST_CASE("tokenizers of other families are read from their tokenizer.json alone") {
  const std::vector<Json> texts = json_lines(kGolden / "encode.jsonl");
  for (const char* family : {"smollm2", "llama3"}) {
    CAPTURE(family);
    const std::filesystem::path directory = kGolden / "families" / family;
    const Tokenizer tokenizer = Tokenizer::load(directory);
    std::vector<Json> lines = json_lines(directory / "ids.jsonl");
    REQUIRE(lines.size() == texts.size());
    for (size_t i = 0; i < lines.size(); ++i) lines[i]["text"] = texts[i]["text"];
    for (const Json& line : json_lines(directory / "extra.jsonl")) lines.push_back(line);
    for (const Json& line : lines) {
      const auto text = line["text"].get<std::string>();
      CAPTURE(text);
      const auto ids = line["ids"].get<std::vector<int32_t>>();
      CHECK(tokenizer.encode(text, {.add_bos = true, .special_tokens = true}) == ids);
      const auto plain = line.contains("ids_plain") ? line["ids_plain"].get<std::vector<int32_t>>()
                                                    : tokenizer.encode(text, {.special_tokens = true});
      CHECK(tokenizer.encode(text) == plain);
      CHECK(tokenizer.decode(ids, /*skip_special=*/true) == line.value("decoded_skip_special", text));
    }
    for (const Json& line : json_lines(directory / "decode.jsonl")) {
      const auto ids = line["ids"].get<std::vector<int32_t>>();
      const auto text = line["text"].get<std::string>();
      CHECK(tokenizer.decode(ids) == text);
      CHECK(tokenizer.decode(ids, /*skip_special=*/true) == line.value("text_skip_special", text));
    }
  }
}

TEST_CASE("tokenizers of other families that are not understood are refused by the name of what they have") {
  const std::pair<const char*, const char*> families[] = {
      {"gpt-neox", "NFC"}, {"qwen2", "NFC"}, {"llama2", "Prepend"}, {"mistral", "Metaspace"}};
  for (const auto& [family, component] : families)
    CHECK_THROWS_WITH_AS(Tokenizer::load(kGolden / "families" / family), doctest::Contains(component), Error);
}

TEST_CASE("decoding of any bytes equals the goldens, whole and streamed") {
  const Tokenizer tokenizer = Tokenizer::load(kGolden / "opt-tiny");
  for (const Json& line : json_lines(kGolden / "decode.jsonl")) {
    const auto ids = line["ids"].get<std::vector<int32_t>>();
    CAPTURE(line["bytes"].get<std::string>());
    std::string bytes;
    for (const int32_t id : ids) bytes += tokenizer.bytes_of(id);
    CHECK(bytes == from_hex(line["bytes"].get<std::string>()));
    CHECK(tokenizer.decode(ids) == line["text"].get<std::string>());
    StreamingDecoder streaming(tokenizer, /*skip_special=*/false);
    std::string streamed;
    for (const int32_t id : ids) streamed += streaming.push(id);
    CHECK(streamed + streaming.finish() == line["text"].get<std::string>());
  }
}

TEST_CASE("training gives the golden merges") {
  const std::vector<Json> corpus = json_lines(kGolden / "corpus.jsonl");
  for (const Json& golden : read_json_file(kGolden / "trainer.json")) {
    const auto name = golden["name"].get<std::string>();
    CAPTURE(name);
    std::vector<std::string> texts;
    if (golden.contains("texts")) {
      texts = golden["texts"].get<std::vector<std::string>>();
    } else {
      const auto size = static_cast<int64_t>(corpus.size());
      int64_t first = golden.value("first", int64_t{0});
      int64_t last = golden.value("last", size);
      if (first < 0) first += size;
      for (int64_t i = first; i < last; ++i) texts.push_back(corpus[static_cast<size_t>(i)]["text"].get<std::string>());
    }
    TokenizerTrainer trainer;
    trainer.add(texts);
    const Tokenizer tokenizer =
        trainer.train({.vocab_size = golden["vocab_size"],
                       .min_frequency = golden["min_frequency"],
                       .special_tokens = golden["special_tokens"].get<std::vector<std::string>>()});
    CHECK(tokenizer.vocab_size() == golden["vocab_length"].get<int32_t>());
    const TemporaryDirectory directory;
    tokenizer.save(directory.path());
    std::ifstream file(directory.path() / "merges.txt");
    std::vector<std::string> merges;
    for (std::string line; std::getline(file, line);)
      if (!line.starts_with("#version")) merges.push_back(line);
    CHECK(merges == golden["merges"].get<std::vector<std::string>>());
  }
}

TEST_CASE("what is saved is loaded back as the same tokenizer") {
  const Tokenizer original = Tokenizer::load(kGolden / "opt-tiny");
  const TemporaryDirectory directory;
  original.save(directory.path());
  const Tokenizer back = Tokenizer::load(directory.path());
  CHECK(back.content_hash() == original.content_hash());
  CHECK(read_json_file(directory.path() / "vocab.json") == read_json_file(kGolden / "opt-tiny/vocab.json"));
}

TEST_CASE("text that is not UTF-8 and damaged files are named") {
  const Tokenizer tokenizer = Tokenizer::load(kGolden / "opt-tiny");
  CHECK_THROWS_WITH_AS(tokenizer.encode("ab\xff"), doctest::Contains("byte 2"), Error);
  const TemporaryDirectory directory;
  std::filesystem::copy(kGolden / "opt-tiny", directory.path(), std::filesystem::copy_options::recursive);
  std::ofstream(directory.path() / "merges.txt") << "#version: 0.2\nh e\nhe\n";
  CHECK_THROWS_WITH_AS(Tokenizer::load(directory.path()), doctest::Contains("merges.txt:3"), Error);
  std::ofstream(directory.path() / "vocab.json") << R"({"a": -1})";
  CHECK_THROWS_WITH_AS(Tokenizer::load(directory.path()), doctest::Contains("vocab.json"), Error);
  CHECK_THROWS_AS(Tokenizer::load(directory.path() / "nowhere"), Error);
}

}  // namespace
}  // namespace cbtm
