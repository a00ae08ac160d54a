// cluster --router prefix and what stands on it, from the command line.

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <fstream>
#include <map>
#include <sstream>
#include <thread>

#include "cbtm/base/json.h"
#include "tests/commands/tiny_run.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

std::vector<std::string> cluster_command(const std::string& run, const std::vector<std::string>& more = {},
                                         const std::string& prefix_tokens = "32") {
  std::vector<std::string> words = {"cluster",
                                    "--corpus",
                                    "corpus.jsonl",
                                    "--k",
                                    "3",
                                    "--vocab-size",
                                    "384",
                                    "--dimensions",
                                    "8",
                                    "--router",
                                    "prefix",
                                    "--prefix-tokens",
                                    prefix_tokens,
                                    "--router-rounds",
                                    "10",
                                    "--router-learning-rate",
                                    "1e-2",
                                    "--threads",
                                    "1",
                                    "--run",
                                    run};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

void write_corpus(const std::filesystem::path& directory) {
  std::ofstream(directory / "corpus.jsonl") << tiny_corpus(60);
}

/// Documents of each subject (the beginning of their ids) in each shard.
std::map<char, std::vector<int>> subjects(const std::filesystem::path& run) {
  std::map<char, std::vector<int>> counts;
  for (size_t shard = 0; shard < 3; ++shard)
    for (const char* split : {"train", "valid", "tune"}) {
      std::ifstream file(run / "shards" / ("00" + std::to_string(shard)) / (std::string(split) + ".documents.jsonl"));
      for (std::string line; std::getline(file, line);) {
        std::vector<int>& of = counts[Json::parse(line)["id"].get<std::string>()[0]];
        of.resize(3);
        ++of[shard];
      }
    }
  return counts;
}

TEST_CASE("a prefix router: clusters, experts, several routers in one pass, generation") {
  const TemporaryDirectory directory;
  const std::filesystem::path& here = directory.path();
  write_corpus(here);
  const Outcome made = succeed(run_cbtm(cluster_command("run", {"--json", "clusters.json"}), here));
  CHECK(made.output.find("clustering prefix") != std::string::npos);
  const Json clusters = read_json_file(here / "clusters.json");
  CHECK(clusters["clustering"] == "prefix");
  CHECK(clusters["router"] == "prefix");
  CHECK(clusters["objectives"].size() == 9);
  CHECK(clusters["settings"]["prefix"]["prefix_tokens"] == 32);
  CHECK(!std::filesystem::exists(here / "run/training"));
  const Json router = read_json_file(here / "run/router/router.json");
  CHECK(router["kind"] == "prefix");
  CHECK(router["content_hash"] == clusters["router_hash"]);
  CHECK(read_json_file(here / "run/router/tfidf/router.json")["kind"] == "tfidf-svd");
  // The three subjects, each in a shard of its own.
  std::vector<int> right(3);
  for (const auto& [subject, of] : subjects(here / "run")) {
    const auto most = std::max_element(of.begin(), of.end());
    CHECK(*most >= 57);
    right[static_cast<size_t>(most - of.begin())] += 1;
  }
  CHECK(right == std::vector<int>{1, 1, 1});

  succeed(run_cbtm(tiny_training({"train_seed", "--preset", "nano"}, {"--steps", "5"}), here));
  succeed(run_cbtm(tiny_training({"train_expert", "--all"}, {"--steps", "5"}), here));
  CHECK(read_json_file(here / "run/experts/001/expert.json")["router_hash"] == clusters["router_hash"]);
  CHECK(std::filesystem::exists(here / "run/experts/router/models/002/model.safetensors"));
  const std::vector<std::string> evaluate = {"ensemble", "evaluate", "--experts", "run/experts", "--threads", "1"};
  const auto with = [](std::vector<std::string> words, const std::vector<std::string>& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  succeed(run_cbtm(with(evaluate, {"--router", "tfidf,prefix,prefix:temperature=50,posterior,uniform", "--topk", "1,2",
                                   "--json", "all.json", "--token-log-probs", "tokens.jsonl"}),
                   here));
  const Json all = read_json_file(here / "all.json");
  CHECK(all["settings"]["router"] == "prefix");
  std::map<std::string, double> losses;
  for (const Json& entry : all["sweep"])
    losses[entry["router"].get<std::string>() + std::to_string(entry["top_k"].get<int>())] =
        entry["negative_log_likelihood"];
  REQUIRE(losses.size() == 8);
  succeed(run_cbtm(with(evaluate, {"--topk", "1,2", "--json", "own.json", "--matrix"}), here));
  const Json own = read_json_file(here / "own.json");
  CHECK(own["sweep"][0]["negative_log_likelihood"].get<double>() == losses["prefix1"]);
  CHECK(own["sweep"][1]["negative_log_likelihood"].get<double>() == losses["prefix2"]);
  CHECK(own["settings"]["router_temperature"] == 1.0);

  const std::vector<std::string> generate = {"ensemble", "--experts",          "run/experts", "--threads",        "1",
                                             "--prompt", "comet orbit planet", "--greedy",    "--max-new-tokens", "6"};
  const Outcome shown = succeed(run_cbtm(with(generate, {"--show-routing", "--topk", "1"}), here));
  CHECK(shown.errors.find("[expert") != std::string::npos);
  const Outcome named = succeed(run_cbtm(with(generate, {"--topk", "1", "--router", "prefix"}), here));
  CHECK(named.output == shown.output);
  succeed(run_cbtm(with(generate, {"--router", "tfidf:temperature=0.2"}), here));
  succeed(run_cbtm({"inspect", "run/router"}, here));

  const auto refused = [&](const std::vector<std::string>& words, int code, const char* expected) {
    check_error(run_cbtm(with(words, {"--quiet"}), here), code, expected);
  };
  refused(with(evaluate, {"--distance-power", "4"}), 2, "whose weights are of likelihoods");
  refused(with(evaluate, {"--router", "tfidf", "--router-temperature", "1"}), 2,
          "is of the experts' own router, prefix");
  refused(with(evaluate, {"--router", "prefix:power=4"}), 2, "prefix has temperature=T and topk=N");
  // The same command finds it done; other settings are refused.
  CHECK(succeed(run_cbtm(cluster_command("run"), here)).errors.find("done already") != std::string::npos);
  refused(cluster_command("run", {}, "16"), 1, "prefix_tokens");
}

/// The clustering that was stopped and went on has the bits of the one that was not.
void check_same(const std::filesystem::path& here) {
  const Json whole = read_json_file(here / "whole/clusters.json");
  const Json killed = read_json_file(here / "killed/clusters.json");
  CHECK(killed["router_hash"] == whole["router_hash"]);
  CHECK(killed["files"] == whole["files"]);
  CHECK(killed["objectives"] == whole["objectives"]);
  CHECK(!std::filesystem::exists(here / "killed/training"));
}

TEST_CASE("a clustering that is killed goes on from its last round, to the same bits") {
  const TemporaryDirectory directory;
  const std::filesystem::path& here = directory.path();
  write_corpus(here);
  succeed(run_cbtm(cluster_command("whole"), here));
  // Killed after some round; a process that was too fast for that is given another try.
  for (const int signal : {SIGKILL, SIGTERM}) {
    bool stopped = false;
    for (int attempt = 0; attempt < 20 && !stopped; ++attempt) {
      std::filesystem::remove_all(here / "killed");
      Process process(cbtm_command(cluster_command("killed")), here);
      const std::filesystem::path state = here / "killed/training/router/round/state.json";
      while (!process.ended() && !std::filesystem::exists(state))
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      if (!process.ended()) process.send(signal);
      stopped = process.wait().exit_code != 0 && std::filesystem::exists(state);
    }
    REQUIRE(stopped);
    const Outcome resumed = succeed(run_cbtm(cluster_command("killed"), here));
    CHECK(resumed.errors.find("goes on after round") != std::string::npos);
    check_same(here);
  }
}

TEST_CASE("--router prefix: what is refused before any work") {
  const TemporaryDirectory directory;
  write_corpus(directory.path());
  const auto refused = [&](std::vector<std::string> words, const char* expected) {
    words.push_back("--quiet");
    check_error(run_cbtm(words, directory.path()), 2, expected);
    CHECK(!std::filesystem::exists(directory / "run/tokenizer"));
  };
  refused(cluster_command("run", {"--clustering", "balanced"}), "whose models divide the corpus themselves");
  refused(cluster_command("run", {"--restarts", "2"}), "--restarts does nothing with --router prefix");
  refused(cluster_command("run", {"--router-preset", "none"}), "none");
  refused({"cluster", "--corpus", "corpus.jsonl", "--run", "run", "--router", "prefix", "--prefix-tokens", "100000"},
          "is more than the");
  refused({"cluster", "--corpus", "corpus.jsonl", "--run", "run", "--prefix-tokens", "8"},
          "--prefix-tokens does nothing without --router prefix");
  refused({"cluster", "--corpus", "corpus.jsonl", "--run", "run", "--router", "posterior"}, "use tfidf or prefix");
  refused({"cluster", "--corpus", "corpus.jsonl", "--run", "run", "--clustering", "prefix"}, "that is --router prefix");
}

}  // namespace
}  // namespace cbtm
