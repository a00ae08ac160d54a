// The goldens through the command line: what a person gets from the binary is what other people's software computed.

#include <doctest/doctest.h>

#include <cmath>
#include <fstream>

#include "cbtm/tensor_file/tensor_file.h"
#include "tests/commands/process.h"
#include "tests/commands/tiny_run.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

const std::filesystem::path kData = CBTM_TEST_DATA;
const std::string kModels = (kData / "opt/models").string();
const std::string kTokenizer = (kData / "tokenizer/opt-tiny").string();

std::vector<Json> json_lines(const std::filesystem::path& path) {
  std::vector<Json> lines;
  std::ifstream file(path);
  for (std::string text; std::getline(file, text);) lines.push_back(Json::parse(text));
  return lines;
}

void write_json_lines(const std::filesystem::path& path, const std::vector<Json>& lines) {
  std::ofstream file(path);
  for (const Json& line : lines) file << line.dump() << '\n';
}

/// Rows of an [n, width] golden tensor as lists of ids.
Json id_rows(const StoredTensor& tensor) {
  const std::vector<int32_t> ids = tensor.values<int32_t>();
  const int64_t width = tensor.shape.back();
  Json rows = Json::array();
  for (auto at = ids.begin(); at != ids.end(); at += width) rows.push_back(std::vector<int32_t>(at, at + width));
  return rows;
}

TEST_CASE("tokenizer encode and decode give every golden string's ids and text") {
  const TemporaryDirectory work;
  std::vector<Json> texts;
  const std::vector<Json> goldens = json_lines(kData / "tokenizer/encode.jsonl");
  for (const Json& golden : goldens) texts.push_back({{"text", golden["text"]}});
  write_json_lines(work / "texts.jsonl", texts);
  const auto encode = [&](const std::vector<std::string>& flags) {
    std::vector<std::string> words = {"tokenizer", "encode",      "--tokenizer", kTokenizer,
                                      "--input",   "texts.jsonl", "--output",    "ids.jsonl"};
    words.insert(words.end(), flags.begin(), flags.end());
    succeed(run_cbtm(words, work.path()));
    return json_lines(work / "ids.jsonl");
  };
  const std::vector<Json> plain = encode({"--no-bos", "--no-special"});
  const std::vector<Json> as_opt = encode({});
  REQUIRE(as_opt.size() == goldens.size());
  for (size_t i = 0; i < goldens.size(); ++i) {
    CAPTURE(goldens[i].dump());
    Json without_first = goldens[i]["ids"];
    without_first.erase(0);
    CHECK(as_opt[i] == goldens[i]["ids"]);
    CHECK(plain[i] == goldens[i].value("ids_plain", without_first));
  }
  const auto decode = [&](const std::vector<std::string>& flags) {
    std::vector<std::string> words = {"tokenizer", "decode",    "--tokenizer", kTokenizer,
                                      "--input",   "ids.jsonl", "--output",    "back.jsonl"};
    words.insert(words.end(), flags.begin(), flags.end());
    succeed(run_cbtm(words, work.path()));
    return json_lines(work / "back.jsonl");
  };
  const std::vector<Json> back = decode({"--skip-special"});
  REQUIRE(back.size() == goldens.size());
  for (size_t i = 0; i < goldens.size(); ++i)
    CHECK(back[i]["text"] == goldens[i].value("decoded_skip_special", goldens[i]["text"].get<std::string>()));

  const std::vector<Json> decodings = json_lines(kData / "tokenizer/decode.jsonl");
  std::vector<Json> ids;
  for (const Json& golden : decodings) ids.push_back(golden["ids"]);
  write_json_lines(work / "ids.jsonl", ids);
  const std::vector<Json> decoded = decode({});
  REQUIRE(decoded.size() == decodings.size());
  for (size_t i = 0; i < decodings.size(); ++i) CHECK(decoded[i]["text"] == decodings[i]["text"]);
}

TEST_CASE("logits of the golden models") {
  const TemporaryDirectory work;
  for (const char* name : {"tiny-preln", "tiny-postln-proj", "micro-no-final-ln", "micro-nobias-noaffine-gelu"}) {
    const std::filesystem::path folder = kData / "opt/models" / name;
    const TensorFile golden = TensorFile::open(folder / "forward.safetensors");
    const std::string kind = std::filesystem::exists(folder / "safetensors-f32") ? "safetensors-f32" : "bin-f16";
    for (const StoredTensor& tensor : golden.tensors()) {
      if (!tensor.name.starts_with("len") || !tensor.name.ends_with(".ids")) continue;
      CAPTURE(name);
      CAPTURE(tensor.name);
      write_json_file(work / "ids.json", id_rows(tensor));
      succeed(run_cbtm(
          {"logits", "--model", folder / kind, "--ids", "ids.json", "--out", "logits.safetensors", "--threads", "1"},
          work.path()));
      const TensorFile file = TensorFile::open(work / "logits.safetensors");
      const StoredTensor& got = file.at("logits");
      const StoredTensor& want = golden.at(tensor.name.substr(0, tensor.name.size() - 4) + ".logits");
      REQUIRE(got.shape == want.shape);
      CHECK(got.type == StoredType::f32);
      const std::vector<float> a = got.values<float>(), b = want.values<float>();
      double largest = 0;
      for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(static_cast<double>(a[i] - b[i])));
      CHECK(largest <= 1e-4);
    }
  }
}

TEST_CASE("greedy generation from prompt ids") {
  const TemporaryDirectory work;
  for (const char* name : {"tiny-preln", "tiny-postln-proj"}) {
    CAPTURE(name);
    const TensorFile golden = TensorFile::open(kData / "opt/models" / name / "generate.safetensors");
    Json prompts = Json::array(), tokens = Json::array();
    for (int i = 0; golden.find(std::to_string(i) + ".prompt") != nullptr; ++i) {
      prompts.push_back(golden.at(std::to_string(i) + ".prompt").values<int32_t>());
      tokens.push_back(golden.at(std::to_string(i) + ".tokens").values<int32_t>());
    }
    write_json_file(work / "prompts.json", prompts);
    const Outcome outcome = succeed(run_cbtm(
        {"generate", "--model", kModels + "/" + name + "/safetensors-f32", "--prompt-ids", "prompts.json", "--greedy",
         "--ignore-eos", "--max-new-tokens", std::to_string(tokens[0].size()), "--json", "out.json", "--threads", "1"},
        work.path()));
    CHECK(read_json_file(work / "out.json")["ids"] == tokens);
    // Without a tokenizer the ids themselves are the result.
    CHECK(Json::parse(outcome.output.substr(0, outcome.output.find('\n'))) == tokens[0]);
    CHECK(outcome.errors.find("no tokenizer") != std::string::npos);
  }
}

const std::vector<std::string> kGoldenEnsemble = {"--experts",   (kData / "ensemble/experts").string(),
                                                  "--router",    (kData / "ensemble/router").string(),
                                                  "--tokenizer", kTokenizer,
                                                  "--threads",   "1"};

Outcome run_ensemble(const std::vector<std::string>& words, const std::filesystem::path& directory) {
  std::vector<std::string> all = {"ensemble"};
  all.insert(all.end(), words.begin(), words.end());
  all.insert(all.end(), kGoldenEnsemble.begin(), kGoldenEnsemble.end());
  return run_cbtm(all, directory);
}

TEST_CASE("ensemble generate --greedy mixes the golden tokens, the experts told") {
  const TemporaryDirectory work;
  const Json goldens = read_json_file(kData / "ensemble/generate.json");
  for (const Json& golden : goldens) {
    CAPTURE(golden["prompt_ids"].dump());
    CAPTURE(golden["topk"].dump());
    write_json_file(work / "prompt.json", {golden["prompt_ids"]});
    const Outcome outcome = succeed(
        run_ensemble({"generate", "--prompt-ids", "prompt.json", "--greedy", "--ignore-eos", "--max-new-tokens",
                      std::to_string(golden["new_ids"].size()), "--topk", golden["topk"].dump(), "--distance-power",
                      golden["power"].dump(), "--router-temperature", "0.1", "--show-routing", "--json", "out.json"},
                     work.path()));
    const Json got = read_json_file(work / "out.json");
    CHECK(got["ids"][0] == golden["new_ids"]);
    REQUIRE(got["expert_weights"][0].size() == golden["experts_used"].size());
    for (size_t t = 0; t < golden["experts_used"].size(); ++t) {
      std::vector<int64_t> used;
      const Json& weights = got["expert_weights"][0][t];
      for (size_t j = 0; j < weights.size(); ++j)
        if (weights[j].get<double>() > 0) used.push_back(static_cast<int64_t>(j));
      CHECK(used == golden["experts_used"][t].get<std::vector<int64_t>>());
    }
    CHECK(outcome.errors.find("plain OPT checkpoints") != std::string::npos);
    CHECK(outcome.errors.find("[expert 00") != std::string::npos);
  }
}

TEST_CASE("ensemble evaluate gives the golden perplexities, token by token") {
  const TemporaryDirectory work;
  const std::string documents = (kData / "ensemble/documents.jsonl").string();
  const Json manifest = read_json_file(kData / "ensemble/manifest.json");
  for (const auto& [mode, routing] :
       {std::pair{"token", "token"}, {"lagged", "lagged"}, {"every4", "every:4"}, {"half", "fraction:0.5"}})
    for (const std::string power : {"2", "4"}) {
      succeed(run_ensemble(
          {"evaluate", "--corpus", documents, "--topk", "1,2,all", "--distance-power", power, "--router-temperature",
           "0.1", "--routing", routing, "--json", "out.json", "--token-log-probs", "tokens.jsonl"},
          work.path()));
      const Json got = read_json_file(work / "out.json");
      const std::string prefix = std::string(mode) + ".power" + power + ".top";
      CAPTURE(prefix);
      REQUIRE(got["sweep"].size() == 3);
      for (size_t i = 0; i < 3; ++i) {
        const std::string top = got["sweep"][i]["top_k"].dump();
        CHECK(got["sweep"][i]["perplexity"].get<double>() ==
              doctest::Approx(manifest["perplexity"][prefix + top].get<double>()).epsilon(1e-5));
      }
      if (mode != std::string("token") || power != "2") continue;
      const std::vector<Json> lines = json_lines(work / "tokens.jsonl");
      REQUIRE(lines.size() == 3);
      for (size_t d = 0; d < lines.size(); ++d) {
        const TensorFile golden =
            TensorFile::open(kData / "ensemble" / ("document_" + std::to_string(d) + ".safetensors"));
        const auto want = golden.at("mixed_target_log_probability.power2.top1").values<double>();
        const auto weights = golden.at("weights.power2.top1").values<double>();
        REQUIRE(lines[d]["log_probabilities"].size() == want.size());
        double sum = 0;
        for (size_t t = 0; t < want.size(); ++t) {
          const double value = lines[d]["log_probabilities"][t];
          sum += value;
          CHECK(std::abs(value - want[t]) <= 1e-4);
          for (size_t j = 0; j < 4; ++j)
            CHECK(std::abs(lines[d]["weights"][t][j].get<double>() - weights[(t + 1) * 4 + j]) <= 1e-5);
        }
        CHECK(got["documents"][d]["negative_log_likelihood"].get<double>() == doctest::Approx(-sum).epsilon(1e-9));
        CHECK(got["documents"][d]["perplexity"].get<double>() ==
              doctest::Approx(manifest["documents"][d][prefix + "1"].get<double>()).epsilon(1e-5));
      }
    }
}

TEST_CASE("evaluate of one expert gives its own golden perplexity") {
  const TemporaryDirectory work;
  const Json manifest = read_json_file(kData / "ensemble/manifest.json");
  succeed(run_cbtm({"evaluate", "--model", (kData / "ensemble/experts/002").string(), "--tokenizer", kTokenizer,
                    "--corpus", (kData / "ensemble/documents.jsonl").string(), "--json", "out.json", "--threads", "1"},
                   work.path()));
  const Json got = read_json_file(work / "out.json");
  for (size_t d = 0; d < 3; ++d)
    CHECK(got["documents"][d]["perplexity"].get<double>() ==
          doctest::Approx(manifest["documents"][d]["expert_perplexity"][2].get<double>()).epsilon(1e-5));
}

}  // namespace
}  // namespace cbtm
