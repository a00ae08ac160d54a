// Mixtures of experts from the command line: made, trained, killed and gone on with, evaluated beside the dense
// baseline, generated from, reported; and what cannot be is said before any work.

#include <doctest/doctest.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <thread>

#include "cbtm/base/json.h"
#include "cbtm/tensor_file/tensor_file.h"
#include "tests/commands/process.h"
#include "tests/commands/tiny_run.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> train_moe(const std::vector<std::string>& more = {}) {
  std::vector<std::string> flags = {"--steps", "40", "--save-every", "1", "--micro-batch", "4", "--moe-experts", "3"};
  flags.insert(flags.end(), more.begin(), more.end());
  return tiny_training({"train_expert", "--moe"}, flags);
}

std::vector<float> logits_of(const fs::path& model, const fs::path& directory) {
  std::ofstream(directory / "ids.json") << Json({{5, 300, 7, 9, 200, 11, 250, 3}, {44, 45, 46, 47, 48, 49, 50, 51}});
  succeed(run_cbtm(
      {"logits", "--model", model.string(), "--ids", "ids.json", "--out", "logits.safetensors", "--threads", "1"},
      directory));
  return TensorFile::open(directory / "logits.safetensors").at("logits").values<float>();
}

TEST_SUITE_BEGIN("end_to_end");

TEST_CASE("an upcycled seed computes what the seed does, and says what it was made from") {
  const TinyRunCopy run;
  const Outcome made = succeed(run_cbtm({"upcycle", "--model", "run/seed", "--moe-experts", "4", "--moe-layers", "all",
                                         "--out", "start", "--threads", "1", "--json", "start.json"},
                                        run.path()));
  CHECK(made.output.find("4 experts in each of the layers 0, 1") != std::string::npos);
  const Json result = read_json_file(run / "start.json");
  const Json config = read_json_file(run / "start/config.json"), card = read_json_file(run / "start/expert.json");
  CHECK(config["model_type"] == "opt_moe");
  CHECK(config["num_experts"] == 4);
  CHECK(config["moe_layers"] == Json({0, 1}));
  CHECK(card["kind"] == "upcycled");
  CHECK(card["settings"]["mixture"]["router_init"] == "uniform");
  CHECK(card["weights_hash"] == result["weights_hash"]);
  // 3 more experts of 2 * 16 * 32 + 48 parameters and a router of 4 * 16 in both layers; two experts work on a token.
  CHECK(result["parameters"].get<int64_t>() - result["active_parameters"].get<int64_t>() == 2 * 2 * (2 * 16 * 32 + 48));
  const std::vector<float> dense = logits_of(run / "run/seed", run.path()),
                           mixture = logits_of(run / "start", run.path());
  REQUIRE(dense.size() == mixture.size());
  double largest = 0;
  for (size_t i = 0; i < dense.size(); ++i)
    largest = std::max(largest, std::abs(static_cast<double>(dense[i] - mixture[i])));
  CHECK(largest <= 2e-6);

  // The same seed of everything random gives the same routers, another one others.
  for (const char* seed : {"1234", "7"}) {
    succeed(run_cbtm({"upcycle", "--model", "run/seed", "--moe-experts", "4", "--moe-layers", "all", "--out", "again",
                      "--seed", seed, "--threads", "1", "--json", "again.json"},
                     run.path()));
    CHECK((read_json_file(run / "again.json")["weights_hash"] == result["weights_hash"]) ==
          (std::string(seed) == "1234"));
  }
  const Outcome seen = succeed(run_cbtm({"inspect", "start"}, run.path()));
  CHECK(seen.output.find("OPT mixture of experts model") != std::string::npos);
  CHECK(seen.output.find("mixtures of 4 experts in the layers 0, 1") != std::string::npos);
}

TEST_CASE(
    "a mixture that is killed while it is trained ends with the same bits, and stands beside the dense baseline") {
  const TinyRunCopy whole, killed;
  succeed(run_cbtm(train_moe(), whole.path()));
  int kills = 0;
  for (const int64_t step : {5, 17, 30}) {
    Process process(cbtm_command(train_moe()), killed.path());
    while (!process.ended()) {
      std::ifstream file(killed / "run/training/moe/metrics.jsonl");
      int64_t lines = 0;
      for (std::string text; std::getline(file, text);) ++lines;
      if (lines >= step) {
        process.send(SIGKILL);
        ++kills;
        break;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    process.wait();
  }
  CHECK(kills >= 1);
  succeed(run_cbtm(train_moe(), killed.path()));
  CHECK(file_contents(killed / "run/moe/model.safetensors") == file_contents(whole / "run/moe/model.safetensors"));
  CHECK_FALSE(fs::exists(killed / "run/training"));
  CHECK(succeed(run_cbtm(train_moe(), killed.path())).errors.find("moe: done already") != std::string::npos);
  check_error(run_cbtm(train_moe({"--quiet", "--router-init", "normal"}), killed.path()), 1, "router_init");

  std::ifstream metrics(whole / "run/moe/metrics.jsonl");
  int64_t steps = 0;
  for (std::string text; std::getline(metrics, text);) {
    const Json line = Json::parse(text);
    if (line["step"] == 0) continue;
    ++steps;
    REQUIRE(line["routing"].size() == 1);  // layer 1 of two
    CHECK(line["routing"][0]["layer"] == 1);
    CHECK(line["balance_loss"].get<double>() > 0);
  }
  CHECK(steps == 40);

  CHECK(read_json_file(whole / "run/run.json")["stages"].contains("moe"));
  succeed(run_cbtm(
      {"evaluate", "--model", "run/moe", "--run", "run", "--split", "valid", "--threads", "1", "--json", "moe.json"},
      whole.path()));
  CHECK(read_json_file(whole / "moe.json")["perplexity"].get<double>() > 1);
  const Outcome text = succeed(run_cbtm(
      {"generate", "--model", "run/moe", "--prompt", "oven", "--max-new-tokens", "8", "--greedy", "--threads", "1"},
      whole.path()));
  CHECK_FALSE(text.output.empty());
  succeed(run_cbtm({"bench", "train", "--model", "run/moe", "--sequence", "32", "--micro-batch", "2", "--steps", "2",
                    "--threads", "1"},
                   whole.path()));
  succeed(run_cbtm({"bench", "decode", "--model", "run/moe", "--sequence", "8", "--micro-batch", "2", "--steps", "2",
                    "--weights", "int8", "--threads", "1"},
                   whole.path()));
}

TEST_CASE("a run with --moe-experts trains, evaluates and reports the mixture, and skips it the second time") {
  const TemporaryDirectory directory;
  std::ofstream(directory / "corpus.jsonl") << tiny_corpus();
  const std::vector<std::string> command = {"run",
                                            "--corpus",
                                            "corpus.jsonl",
                                            "--k",
                                            "2",
                                            "--dimensions",
                                            "4",
                                            "--vocab-size",
                                            "384",
                                            "--preset",
                                            "nano",
                                            "--sequence",
                                            "16",
                                            "--steps",
                                            "6",
                                            "--batch-tokens",
                                            "128",
                                            "--seed-tokens",
                                            "512",
                                            "--moe-experts",
                                            "3",
                                            "--moe-layers",
                                            "0",
                                            "--snapshots",
                                            "0",
                                            "--threads",
                                            "1",
                                            "--json",
                                            "out.json"};
  const Outcome outcome = succeed(run_cbtm(command, directory.path()));
  CHECK(outcome.output.find("mixture of experts") != std::string::npos);
  const Json evaluation = read_json_file(directory / "out.json")["evaluation"];
  CHECK(evaluation["moe"].get<double>() > 1);
  CHECK(fs::exists(directory / "run/evaluation/moe.json"));
  CHECK(read_json_file(directory / "run/run.json")["stages"].contains("moe"));
  const std::string page = file_contents(directory / "run/report.html");
  CHECK(page.find("id=\"moe\"") != std::string::npos);
  CHECK(page.find("choices dropped") != std::string::npos);
  const Outcome again = succeed(run_cbtm(command, directory.path()));
  CHECK(again.errors.find("moe: done already") != std::string::npos);
  CHECK(again.errors.find("evaluate: done already") != std::string::npos);
  // A damaged mixture does not vanish from the results without a word.
  fs::remove(directory / "run/moe/config.json");
  const Outcome damaged = run_cbtm(command, directory.path());
  CHECK(damaged.exit_code == 1);
  CHECK(damaged.errors.find("run/moe: holds no config.json") != std::string::npos);
}

TEST_SUITE_END();

TEST_CASE("what cannot be a mixture is refused before any work") {
  const TinyRunCopy run;
  const auto refused = [&](const std::vector<std::string>& more, int code, const std::string& expected) {
    std::vector<std::string> command = {"upcycle", "--model", "run/seed", "--out", "new"};
    command.insert(command.end(), more.begin(), more.end());
    check_error(run_cbtm(command, run.path()), code, expected);
    CHECK_FALSE(fs::exists(run / "new"));
  };
  refused({"--moe-experts", "1"}, 2, "--moe-experts");
  refused({"--moe-experts", "257"}, 2, "--moe-experts");
  refused({"--moe-layers", "2"}, 2, "layers are 0 to 1");
  refused({"--moe-layers", "1,0"}, 2, "in order");
  refused({"--moe-layers", "1,1"}, 2, "in order");
  refused({"--moe-layers", "even"}, 2, "odd, all");
  refused({"--router-init", "zero"}, 2, "uniform or normal");
  check_error(run_cbtm({"upcycle", "--model", "run/seed"}, run.path()), 2, "--out");
  check_error(run_cbtm({"upcycle", "--out", "new"}, run.path()), 2, "--model");
  check_error(run_cbtm({"upcycle", "--model", "nothing", "--out", "new"}, run.path()), 1, "no such model directory");
  check_error(run_cbtm({"upcycle", "--model", "run/seed", "--out", "run/shards"}, run.path()), 1, "run/shards");
  check_error(run_cbtm(tiny_training({"train_expert", "--baseline", "--moe-experts", "4"}), run.path()), 2, "--moe");
  check_error(run_cbtm(tiny_training({"train_expert", "--baseline", "--moe"}), run.path()), 2, "one of");
  succeed(run_cbtm({"upcycle", "--model", "run/seed", "--moe-experts", "2", "--out", "new"}, run.path()));
  check_error(run_cbtm({"upcycle", "--model", "new", "--out", "more"}, run.path()), 1, "already");
}

}  // namespace
}  // namespace cbtm
