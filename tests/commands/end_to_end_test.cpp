// The whole job on a tiny corpus: three subjects, three experts, the ensemble; and what must hold of its numbers.

#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <set>

#include "cbtm/base/error.h"
#include "tests/commands/process.h"
#include "tests/commands/tiny_run.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;

/// tiny_run() with its three experts trained, made once.
const TinyRunCopy& trained_run() {
  static const TinyRunCopy run;
  static const bool trained = [] {
    for (int shard = 0; shard < kTinyClusters; ++shard)
      succeed(run_cbtm(
          tiny_training({"train_expert", "--shard", std::to_string(shard)}, {"--steps", "60", "--json", "expert.json"}),
          run.path()));
    return true;
  }();
  static_cast<void>(trained);
  return run;
}

struct TrainedCopy : TemporaryDirectory {
  TrainedCopy() {
    for (const auto& entry : fs::directory_iterator(trained_run().path()))
      fs::copy(entry.path(), path() / entry.path().filename(), fs::copy_options::recursive);
  }
};

Outcome ensemble(const fs::path& directory, const std::vector<std::string>& more,
                 const std::string& experts = "run/experts") {
  std::vector<std::string> words = {"ensemble",  "evaluate", "--experts", experts,
                                    "--threads", "1",        "--json",    "out.json"};
  words.insert(words.end(), more.begin(), more.end());
  return run_cbtm(words, directory);
}

Json evaluated(const fs::path& directory, const std::vector<std::string>& more,
               const std::string& experts = "run/experts") {
  succeed(ensemble(directory, more, experts));
  return read_json_file(directory / "out.json");
}

TEST_SUITE_BEGIN("end_to_end");

TEST_CASE("clusters are the subjects, and what is told of them adds up") {
  const Json clusters = read_json_file(tiny_run() / "cluster.json");
  CHECK(clusters["clusters"] == kTinyClusters);
  CHECK(clusters["documents"] == 3 * 90);
  int64_t documents = 0;
  for (int64_t j = 0; j < kTinyClusters; ++j) {
    const Json& size = clusters["sizes"][static_cast<size_t>(j)];
    std::set<std::string> topics;
    int64_t lines = 0;
    for (const std::string split : {"train", "valid", "tune"}) {
      std::ifstream file(tiny_run() / ("run/shards/00" + std::to_string(j)) / (split + ".documents.jsonl"));
      for (std::string text; std::getline(file, text); ++lines)
        topics.insert(Json::parse(text)["id"].get<std::string>().substr(0, 1));
      documents += size[split + "_documents"].get<int64_t>();
    }
    CHECK(topics.size() == 1);  // subjects share no words
    CHECK(lines == 90);
    CHECK(clusters["top_terms"][static_cast<size_t>(j)].size() >= 5);
  }
  CHECK(documents == 3 * 90);
  for (const char* key : {"objective", "duality_gap", "balance", "router_hash", "tokenizer_hash"})
    CHECK(clusters.contains(key));
  CHECK(succeed(run_cbtm({"inspect", "run"}, trained_run().path())).output.find("expert/002") != std::string::npos);
}

TEST_CASE("the ensemble's result has the fields of the contract, and its parts add up") {
  const fs::path& directory = trained_run().path();
  const Json result = evaluated(directory, {"--topk", "2", "--token-log-probs", "tokens.jsonl"});
  for (const char* key : {"perplexity", "negative_log_likelihood", "tokens", "seconds", "documents", "settings"})
    CHECK(result.contains(key));
  for (const char* key : {"top_k", "router_temperature", "distance_power", "routing", "experts", "router_hash"})
    CHECK(result["settings"].contains(key));
  const double total = result["negative_log_likelihood"];
  CHECK(result["perplexity"].get<double>() == doctest::Approx(std::exp(total / result["tokens"].get<double>())));
  std::ifstream file(directory / "tokens.jsonl");
  double sum_of_tokens = 0, sum_of_documents = 0;
  int64_t tokens = 0;
  for (const Json& document : result["documents"]) {
    std::string text;
    REQUIRE(std::getline(file, text));
    const Json line = Json::parse(text);
    CHECK(line["id"] == document["id"]);
    double sum = 0;
    for (const Json& value : line["log_probabilities"]) sum -= value.get<double>();
    CHECK(document["negative_log_likelihood"].get<double>() == doctest::Approx(sum).epsilon(1e-9));
    CHECK(document["tokens"] == line["log_probabilities"].size());
    double mean_weights = 0;
    for (const Json& weight : document["expert_weights"]) mean_weights += weight.get<double>();
    CHECK(mean_weights == doctest::Approx(1.0).epsilon(1e-9));
    for (const Json& weights : line["weights"]) {
      double weight_sum = 0;
      int active = 0;
      for (const Json& weight : weights) {
        weight_sum += weight.get<double>();
        active += weight.get<double>() > 0 ? 1 : 0;
      }
      CHECK(weight_sum == doctest::Approx(1.0).epsilon(1e-9));
      CHECK(active <= 2);
    }
    sum_of_tokens += sum;
    sum_of_documents += document["negative_log_likelihood"].get<double>();
    tokens += document["tokens"].get<int64_t>();
  }
  CHECK(total == doctest::Approx(sum_of_tokens).epsilon(1e-9));
  CHECK(total == doctest::Approx(sum_of_documents).epsilon(1e-9));
  CHECK(result["tokens"] == tokens);
}

TEST_CASE("top-k of all experts is all, in one pass as alone; the matrix is each expert's own perplexity") {
  const fs::path& directory = trained_run().path();
  const Json sweep = evaluated(directory, {"--topk", "1,2,3,all", "--matrix"});
  CHECK(sweep["sweep"][2]["perplexity"] == sweep["sweep"][3]["perplexity"]);
  for (size_t i = 0; i < 3; ++i)
    CHECK(evaluated(directory, {"--topk", std::to_string(i + 1)})["perplexity"].get<double>() ==
          doctest::Approx(sweep["sweep"][i]["perplexity"].get<double>()).epsilon(1e-6));
  // Experts are best at their own subject, and that is what top-1 picks.
  for (size_t expert = 0; expert < 3; ++expert)
    for (size_t cluster = 0; cluster < 3; ++cluster)
      if (cluster != expert)
        CHECK(sweep["matrix"][cluster][cluster].get<double>() < sweep["matrix"][expert][cluster].get<double>());
  succeed(run_cbtm({"evaluate", "--model", "run/experts/001", "--run", "run", "--json", "one.json", "--threads", "1"},
                   directory));
  const Json one = read_json_file(directory / "one.json");
  for (const char* key : {"perplexity", "negative_log_likelihood", "tokens", "seconds", "documents", "settings"})
    CHECK(one.contains(key));
  CHECK(one["tokens"] == sweep["tokens"]);
  CHECK(one["perplexity"].get<double>() > sweep["perplexity"].get<double>());
}

TEST_CASE("experts may be renamed and carried off; some may be missing, which is said") {
  const TrainedCopy copy;
  const std::vector<std::string> corpus = {"--corpus", "corpus.jsonl", "--topk", "2"};
  const Json before = evaluated(copy.path(), corpus);
  fs::create_directories(copy / "elsewhere");
  fs::rename(copy / "run/experts", copy / "elsewhere/models");
  fs::rename(copy / "elsewhere/models/000", copy / "elsewhere/models/zebra");
  fs::rename(copy / "elsewhere/models/002", copy / "elsewhere/models/a");
  fs::rename(copy / "run", copy / "gone");
  const Json after = evaluated(copy.path(), corpus, "elsewhere/models");
  CHECK(after["perplexity"] == before["perplexity"]);
  CHECK(after["documents"] == before["documents"]);

  fs::remove_all(copy / "elsewhere/models/a");
  const Outcome subset = succeed(ensemble(copy.path(), corpus, "elsewhere/models"));
  CHECK(subset.errors.find("2 of 3 experts are present") != std::string::npos);
  const Json rest = read_json_file(copy / "out.json");
  for (const Json& document : rest["documents"]) {
    CHECK(document["expert_weights"][2] == 0);
    CHECK(document["expert_weights"][0].get<double>() + document["expert_weights"][1].get<double>() ==
          doctest::Approx(1.0));
  }
  fs::copy(copy / "elsewhere/models/zebra", copy / "elsewhere/models/double");
  std::vector<std::string> quiet = corpus;
  quiet.emplace_back("--quiet");
  check_error(ensemble(copy.path(), quiet, "elsewhere/models"), kExitFailure, "are both the expert of cluster 0");
}

TEST_CASE("experts of another router, tokenizer or shape are refused") {
  const TrainedCopy copy;
  const fs::path data = CBTM_TEST_DATA;
  const std::vector<std::string> corpus = {"--corpus", "corpus.jsonl", "--quiet"};
  const auto with = [&](const std::vector<std::string>& more) {
    std::vector<std::string> words = corpus;
    words.insert(words.end(), more.begin(), more.end());
    return ensemble(copy.path(), words);
  };
  check_error(with({"--router", data / "ensemble/router"}), kExitFailure, "was trained for another router");
  succeed(run_cbtm({"tokenizer", "train", "--corpus", "corpus.jsonl", "--vocab-size", "300", "--out", "other"},
                   copy.path()));
  check_error(with({"--tokenizer", "other"}), kExitFailure, "was trained with another tokenizer");
  check_error(with({"--tokenizer", data / "tokenizer/opt-tiny"}), kExitFailure, "smaller than the tokenizer's");
  check_error(
      run_cbtm({"train_seed", "--run", "run", "--init", data / "ensemble/experts/000", "--sequence", "32", "--quiet"},
               copy.path()),
      kExitFailure, "--redo");
  // A model whose vocabulary is too small for the run's tokenizer.
  Json small = read_json_file(copy / "model.json");
  small["vocab_size"] = 100;
  write_json_file(copy / "small.json", small);
  check_error(run_cbtm(tiny_training({"train_seed", "--config", "small.json", "--redo", "--quiet"}), copy.path()),
              kExitFailure, "vocabulary of 100 is smaller");
  for (const char* damage : {"[]", "{\"cluster\": \"one\"}", "{\"cluster\": 9}", "{"}) {
    CAPTURE(damage);
    std::ofstream(copy / "run/experts/001/expert.json") << damage;
    check_error(with({}), kExitFailure, "expert.json");
  }
  std::ofstream(copy / "run/shards/clusters.json") << "{\"clusters\": 3}";
  check_error(run_cbtm(tiny_training({"train_expert", "--shard", "0", "--quiet"}), copy.path()), kExitFailure,
              "clusters.json");
}

TEST_CASE("the commands refuse a training that makes no sense, before they start") {
  const fs::path& directory = trained_run().path();
  const auto refuse = [&](const std::vector<std::string>& more, const std::string& expected, int code = kExitUsage) {
    std::vector<std::string> words = {"train_expert", "--quiet", "--run", "run", "--sequence", "32"};
    words.insert(words.end(), more.begin(), more.end());
    check_error(run_cbtm(words, directory), code, expected);
  };
  refuse({}, "--shard");
  refuse({"--shard", "3"}, "--shard 3: the run has the shards 0 to 2");
  refuse({"--shard", "0", "--all"}, "--shard");
  refuse({"--shard", "0", "--batch-tokens", "100"}, "--batch-tokens 100");
  refuse({"--shard", "0", "--batch-tokens", "32"}, "multiple of 96");
  refuse({"--shard", "0", "--steps", "1", "--tokens", "1000"}, "--steps and --tokens");
  refuse({"--shard", "0", "--match", "time"}, "--match time");
  refuse({"--shard", "0", "--dropout", "1"}, "--dropout");
  refuse({"--shard", "0", "--redo", "--memory", "4K", "--steps", "3"}, "--memory", kExitFailure);
  refuse({"--shard", "0", "--learning-rate", "2e-3"}, "learning_rate was 0.01, is 0.002", kExitFailure);
}

TEST_CASE("shards without training documents: clustering warns, training all experts refuses before it begins") {
  const TinyRunCopy run;
  const std::string often[] = {"flour oven butter knead dough", "yeast bake crust sugar whisk",
                               "simmer garlic pepper roast"};
  std::ofstream corpus(run / "same.jsonl");  // mostly three texts, to each of which several equal centres belong
  for (int i = 0; i < 200; ++i)
    corpus << Json{{"text", i % 10 != 0 ? often[i % 3] : "comet orbit planet star" + std::to_string(i)}} << "\n";
  corpus.close();
  const Outcome clustered =
      succeed(run_cbtm({"cluster", "--corpus", "same.jsonl", "--keep-duplicates", "--k", "6", "--dimensions", "4",
                        "--min-df", "1", "--tokenizer", "run/tokenizer", "--threads", "1", "--out", "empty"},
                       run.path()));
  CHECK(clustered.errors.find("would hold nothing to train on") != std::string::npos);
  const auto train = [&](std::vector<std::string> words) {
    const std::vector<std::string> flags = {"--run",   "empty", "--sequence", "32", "--batch-tokens", "384",
                                            "--steps", "3",     "--threads",  "1",  "--quiet"};
    words.insert(words.end(), flags.begin(), flags.end());
    return run_cbtm(words, run.path());
  };
  succeed(train({"train_seed", "--config", "model.json"}));
  check_error(train({"train_expert", "--all"}), kExitFailure, "would hold nothing to train on");
  CHECK_FALSE(fs::exists(run / "empty/baseline"));
}

TEST_CASE("the whole job with a GPT-2 model: trained, evaluated, written, branched from again, averaged") {
  const TemporaryDirectory work;
  std::ofstream(work / "corpus.jsonl") << tiny_corpus();
  write_json_file(work / "gpt2.json", {{"model_type", "gpt2"},
                                       {"vocab_size", 384},
                                       {"n_embd", 32},
                                       {"n_layer", 2},
                                       {"n_head", 2},
                                       {"n_positions", 64}});
  const auto run = [&](const std::string& directory, const std::vector<std::string>& model) {
    std::vector<std::string> words = {"run",     "--corpus",   "corpus.jsonl",
                                      "--k",     "3",          "--dimensions",
                                      "8",       "--sequence", "32",
                                      "--steps", "4",          "--batch-tokens",
                                      "384",     "--threads",  "1",
                                      "--quiet", "--run",      directory};
    words.insert(words.end(), model.begin(), model.end());
    return succeed(run_cbtm(words, work.path()));
  };
  run("run", {"--config", "gpt2.json", "--vocab-size", "384"});
  const Json result = read_json_file(work / "run/evaluation/ensemble.json");
  CHECK(result["perplexity"].get<double>() < 384);
  CHECK(succeed(run_cbtm({"inspect", "run/experts/001"}, work.path())).output.starts_with("GPT-2 model: "));
  CHECK(succeed(run_cbtm({"inspect", "run/experts/001"}, work.path())).output.find("hashes: verified") !=
        std::string::npos);
  run("again", {"--init", "run/experts/001", "--tokenizer", "run/tokenizer"});
  CHECK(read_json_file(work / "again/seed/config.json")["n_embd"] == 32);
  succeed(run_cbtm({"ensemble", "average", "--experts", "run/experts", "--out", "mean"}, work.path()));
  CHECK(succeed(run_cbtm({"inspect", "mean"}, work.path())).output.starts_with("GPT-2 model: "));
}

TEST_CASE("generation streams text, shows its experts, and repeats itself for a seed") {
  const fs::path& directory = trained_run().path();
  const auto generate = [&](const std::vector<std::string>& more, const std::string& input = "") {
    std::vector<std::string> words = {"ensemble",  "--experts", "run/experts", "--max-new-tokens", "12",
                                      "--threads", "1",         "--json",      "out.json"};
    words.insert(words.end(), more.begin(), more.end());
    return succeed(run_cbtm(words, directory, input));
  };
  const Outcome first = generate({"--prompt", "comet orbit planet", "--show-routing", "--seed", "5"});
  const Json json = read_json_file(directory / "out.json");
  CHECK(first.output == json["text"][0].get<std::string>() + "\n");
  CHECK(json["ids"][0].size() <= 12);
  CHECK(first.errors.find("[expert ") != std::string::npos);
  CHECK(generate({"--prompt", "comet orbit planet", "--seed", "5"}).output == first.output);
  CHECK(generate({"--seed", "5"}, "comet orbit planet\n").output == first.output);
  CHECK(generate({"--prompt", "comet orbit planet", "--seed", "6"}).output != first.output);
  for (const Json& weights : json["expert_weights"][0]) {
    double sum = 0;
    for (const Json& weight : weights) sum += weight.get<double>();
    CHECK(sum == doctest::Approx(1.0));
  }
}

TEST_SUITE_END();

}  // namespace
}  // namespace cbtm
