// Averages of experts: one for each prompt (ensemble generate --merge prompt), and one to branch from
// (train_seed --init-average), against `ensemble average` and against sums made here.

#include <doctest/doctest.h>

#include <cmath>
#include <fstream>

#include "cbtm/base/json.h"
#include "cbtm/model/checkpoint.h"
#include "tests/commands/tiny_run.h"

namespace cbtm {
namespace {

const std::filesystem::path kEnsemble = std::filesystem::path(CBTM_TEST_DATA) / "ensemble";
const std::string kTokenizer = (std::filesystem::path(CBTM_TEST_DATA) / "tokenizer/opt-tiny").string();

std::vector<std::string> ensemble(const std::string& action, const std::vector<std::string>& more) {
  std::vector<std::string> words = {"ensemble",           action,
                                    "--experts",          (kEnsemble / "experts").string(),
                                    "--router-directory", (kEnsemble / "router").string(),
                                    "--tokenizer",        kTokenizer,
                                    "--threads",          "1"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

const std::vector<std::string> kSampling = {"--max-new-tokens", "12", "--seed", "7", "--ignore-eos"};

/// What one model generates for these prompts.
Json generated(const std::filesystem::path& here, const std::string& model, const std::vector<std::string>& more) {
  std::vector<std::string> words = {"generate",  "--model", model,    "--tokenizer", kTokenizer,
                                    "--threads", "1",       "--json", "one.json"};
  words.insert(words.end(), more.begin(), more.end());
  words.insert(words.end(), kSampling.begin(), kSampling.end());
  succeed(run_cbtm(words, here));
  return read_json_file(here / "one.json");
}

Json merged(const std::filesystem::path& here, const std::vector<std::string>& more, std::string* errors = nullptr) {
  std::vector<std::string> words = ensemble("generate", {"--merge", "prompt", "--json", "merged.json"});
  words.insert(words.end(), more.begin(), more.end());
  words.insert(words.end(), kSampling.begin(), kSampling.end());
  const Outcome outcome = succeed(run_cbtm(words, here));
  if (errors != nullptr) *errors = outcome.errors;
  return read_json_file(here / "merged.json");
}

/// `ensemble average` by these weights, as a directory.
std::string averaged(const std::filesystem::path& here, const std::string& name, const Json& weights) {
  std::string text;
  for (const Json& weight : weights) text += (text.empty() ? "" : ",") + weight.dump();
  succeed(run_cbtm(ensemble("average", {"--expert-weights", text, "--out", name}), here));
  return name;
}

TEST_CASE("--merge prompt writes what the averaged model writes, for one prompt and for several") {
  const TemporaryDirectory directory;
  const std::filesystem::path& here = directory.path();
  const std::vector<std::string> prompt = {"--prompt", "And the king said unto them"};
  std::string errors;
  Json text = merged(here, {"--prompt", prompt[1], "--topk", "2", "--router-temperature", "0.5"}, &errors);
  REQUIRE(text["merged"].size() == 1);
  double sum = 0;
  int with_weight = 0;
  for (const Json& weight : text["merged"][0]) {
    sum += weight.get<double>();
    with_weight += weight.get<double>() > 0 ? 1 : 0;
  }
  CHECK(sum == doctest::Approx(1));
  CHECK(with_weight == 2);
  CHECK(errors.find("merged for prompt 1: ") != std::string::npos);
  CHECK(text["ids"] == generated(here, averaged(here, "a", text["merged"][0]), prompt)["ids"]);
  // The first step of the ensemble that routes by the prompt has the same weights.
  std::vector<std::string> routed = ensemble(
      "generate", {"--routing", "prompt", "--topk", "2", "--router-temperature", "0.5", "--json", "routed.json"});
  routed.insert(routed.end(), prompt.begin(), prompt.end());
  routed.insert(routed.end(), kSampling.begin(), kSampling.end());
  succeed(run_cbtm(routed, here));
  CHECK(read_json_file(here / "routed.json")["expert_weights"][0][0] == text["merged"][0]);

  // All weigh the same; one expert alone is that expert.
  CHECK(merged(here, {"--prompt", prompt[1], "--router", "uniform"})["ids"] ==
        generated(here, averaged(here, "mean", {0.25, 0.25, 0.25, 0.25}), prompt)["ids"]);
  const Json best = merged(here, {"--prompt", prompt[1], "--topk", "1"});
  size_t expert = 0;
  while (best["merged"][0][expert] != 1.0) ++expert;
  CHECK(best["ids"] ==
        generated(here, (kEnsemble / "experts" / ("00" + std::to_string(expert))).string(), prompt)["ids"]);
  // A posterior reads the prompt first.
  CHECK(merged(here, {"--prompt", prompt[1], "--router", "posterior"})["merged"][0].size() == 4);

  // Several prompts: each is as it is alone, with the random numbers of its place; equal weights share a model.
  std::ofstream(here / "prompts.json") << "[[2, 300, 301], [2, 800, 4, 5], [2, 300, 301]]";
  const Json several = merged(here, {"--prompt-ids", "prompts.json", "--router", "posterior"}, &errors);
  REQUIRE(several["merged"].size() == 3);
  CHECK(several["merged"][0] == several["merged"][2]);
  CHECK(errors.find("merged for prompts 1, 3: ") != std::string::npos);
  const Json same = generated(here, averaged(here, "b", several["merged"][0]), {"--prompt-ids", "prompts.json"});
  CHECK(several["ids"][0] == same["ids"][0]);
  CHECK(several["ids"][2] == same["ids"][2]);

  // Narrow weights: the average is rounded once.
  CHECK(merged(here, {"--prompt", prompt[1], "--router", "uniform", "--weights", "bf16"})["ids"] ==
        generated(here, "mean", {"--prompt", prompt[1], "--weights", "bf16"})["ids"]);
}

TEST_CASE("--merge prompt: what is refused") {
  const auto refused = [&](std::vector<std::string> more, int code, const char* expected) {
    more.insert(more.end(), {"--prompt", "a", "--quiet"});
    check_error(run_cbtm(ensemble("generate", more)), code, expected);
  };
  refused({"--merge", "token"}, 2, "use prompt");
  refused({"--merge", "prompt", "--coefficients", "000=1"}, 2, "leave one of them out");
  refused({"--merge", "prompt", "--routing", "token"}, 2, "weighs the experts once, after the prompt");
  refused({"--merge", "prompt", "--show-routing"}, 2, "--show-routing does nothing");
  refused({"--merge", "prompt", "--router", "posterior:prior=updating"}, 2, "ensemble prior");
  refused({"--merge", "prompt", "--memory", "1K"}, 1, "more than --memory");
}

std::vector<float> parameters(const std::filesystem::path& model) {
  const ModelCheckpoint checkpoint = ModelCheckpoint::open(model);
  std::vector<float> flat(static_cast<size_t>(checkpoint.layout().flat_size()));
  checkpoint.read_parameters(DType::f32, flat.data());
  return flat;
}

TEST_CASE("a seed that branches from an average of experts") {
  TinyRunCopy run;
  const std::filesystem::path& here = run.path();
  for (const char* shard : {"0", "1", "2"})
    succeed(run_cbtm(tiny_training({"train_expert", "--shard", shard}, {"--steps", "4"}), here));
  succeed(run_cbtm({"cluster", "--corpus", "corpus.jsonl", "--k", "2", "--dimensions", "8", "--tokenizer",
                    "run/tokenizer", "--threads", "1", "--run", "new"},
                   here));
  const auto train_seed = [](const std::vector<std::string>& more) {
    std::vector<std::string> words = {"train_seed", "--run",      "new", "--init-average", "run/experts", "--threads",
                                      "1",          "--sequence", "32"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  succeed(run_cbtm(train_seed({"--expert-weights", "0.5,0.25,0.25"}), here));
  const std::vector<float> got = parameters(here / "new/seed");
  std::vector<double> want(got.size());
  const double weights[] = {0.5, 0.25, 0.25};
  for (size_t j = 0; j < 3; ++j) {
    const std::vector<float> expert = parameters(here / "run/experts" / ("00" + std::to_string(j)));
    for (size_t i = 0; i < want.size(); ++i) want[i] += weights[j] * static_cast<double>(expert[i]);
  }
  // Exact in float64, then rounded to float32.
  for (size_t i = 0; i < want.size(); ++i) REQUIRE(got[i] == static_cast<float>(want[i]));
  const Json card = read_json_file(here / "new/seed/expert.json");
  CHECK(card["settings"]["init_average"]["weights"] == Json({0.5, 0.25, 0.25}));
  CHECK(card["settings"]["init_average"]["experts"].size() == 3);
  CHECK(card["inputs"].contains("init"));

  CHECK(succeed(run_cbtm(train_seed({"--weights", "0.5,0.25,0.25"}), here)).errors.find("done already") !=
        std::string::npos);
  const auto refused = [&](std::vector<std::string> words, int code, const char* expected) {
    words.push_back("--quiet");
    check_error(run_cbtm(words, here), code, expected);
  };
  const Outcome changed = run_cbtm(train_seed({}), here);
  CHECK(changed.exit_code != 0);
  CHECK(changed.errors.find("weights was") != std::string::npos);
  succeed(run_cbtm(train_seed({"--redo", "--steps", "3"}), here));
  CHECK(read_json_file(here / "new/seed/expert.json")["training"]["steps"] == 3);

  refused(train_seed({"--init", "run/seed"}), 2, "give one of --preset NAME, --config FILE, --init-average DIR");
  refused(train_seed({"--expert-weights", "0.5,0.5"}), 2, "names 2 weights, but the router has 3 clusters");
  refused({"train_seed", "--run", "new", "--init", "run/seed", "--expert-weights", "uniform"}, 2,
          "--expert-weights is of --init-average");
  succeed(run_cbtm({"cluster", "--corpus", "corpus.jsonl", "--k", "2", "--dimensions", "8", "--vocab-size", "300",
                    "--threads", "1", "--run", "other"},
                   here));
  refused({"train_seed", "--run", "other", "--init-average", "run/experts", "--sequence", "32"}, 1,
          "have another tokenizer");
}

}  // namespace
}  // namespace cbtm
