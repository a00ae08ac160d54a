// The binary as a person uses it, with --device cuda beside --device cpu: every stage, a run, a stop and what it says
// where there is no GPU. Under the simulator with all of its checks: 20 s on two cores.

#include <doctest/doctest.h>

#include <chrono>
#include <cmath>
#include <csignal>
#include <fstream>
#include <thread>

#include "cbtm/tensor_file/tensor_file.h"
#include "tests/cuda/half_precision.h"
#include "tests/cuda/workplace.h"
#include "tests/largest_difference.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;

/// Losses, log-perplexities and logits are sums of hundreds of float32 operations on numbers near 5: rounding errors,
/// sqrt(300) * 2^-24 of it, stay below 1e-5 of them (tests/cuda/training_test.cpp), and a few steps of training
/// multiply them by less than 10.
constexpr double kFloatBound = 1e-4;
/// In bf16 a logit is off by some 3 roundings of 2^-9 of it, a loss by twice that, a mean of losses by no less.
constexpr double kBf16Bound = 0.02;

/// A directory with a corpus of three subjects and the shape of a very small model, and commands in it.
class Workplace {
 public:
  Workplace() { write_workplace(directory_.path()); }
  Outcome run(const Words& command, const std::string& device) const {
    const bool lists = command.front() == "devices";  // it computes nothing
    return run_cbtm(command + (lists ? Words{} : Words{"--device", device, "--threads", "1"}), directory_.path());
  }
  Json json(const Words& command, const std::string& device) const {
    succeed(run(command + Words{"--json", "result.json"}, device));
    return read_json_file(directory_ / "result.json");
  }
  fs::path operator/(const std::string& name) const { return directory_ / name; }
  const fs::path& path() const { return directory_.path(); }

 private:
  TemporaryDirectory directory_;
};

const Words kTraining = {"--sequence", "32", "--batch-tokens", "192", "--learning-rate", "1e-2"};

Words train_expert(const std::string& run, const std::string& shard) {
  return Words{"train_expert", "--run", run, "--shard", shard, "--steps", "4", "--precision", "float32"} + kTraining;
}

/// The stages on either device, in the runs "cpu" and "cuda". Made once.
const Workplace& staged() {
  static const Workplace place;
  static const bool made = [] {
    for (const std::string device : {"cpu", "cuda"}) {
      const Words train_seed = {"train_seed", "--run", device,        "--config", "model.json",
                                "--steps",    "4",     "--precision", "float32"};
      succeed(place.run(kCluster + Words{"--out", device}, device));
      succeed(place.run(train_seed + kTraining, device));
      for (const char* shard : {"0", "1"}) succeed(place.run(train_expert(device, shard), device));
    }
    return true;
  }();
  static_cast<void>(made);
  return place;
}

std::vector<Json> lines_of(const fs::path& path) {
  std::vector<Json> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.push_back(Json::parse(line));
  REQUIRE(!lines.empty());
  return lines;
}

double log_ratio(const Json& got, const Json& want) {
  return std::abs(std::log(got.get<double>() / want.get<double>()));
}

TEST_CASE("cluster: every document goes to the same shard") {
  for (const std::string shard : {"000", "001", "002"})
    for (const char* split : {"train", "valid", "tune"}) {
      const std::string name = "/shards/" + shard + "/" + split + ".documents.jsonl";
      CAPTURE(name);
      CHECK(file_contents(staged() / ("cuda" + name)) == file_contents(staged() / ("cpu" + name)));
    }
  const Json want = read_json_file(staged() / "cpu/clusters.json"),
             got = read_json_file(staged() / "cuda/clusters.json");
  CHECK(got["documents"] == want["documents"]);
  CHECK(log_ratio(got["objective"], want["objective"]) <= kFloatBound);
}

TEST_CASE("train_seed, train_expert: losses and gradient norms are the CPU's, step by step") {
  for (const std::string model : {"seed", "experts/000", "experts/001"}) {
    CAPTURE(model);
    const std::vector<Json> want = lines_of(staged() / ("cpu/" + model + "/metrics.jsonl"));
    const std::vector<Json> got = lines_of(staged() / ("cuda/" + model + "/metrics.jsonl"));
    REQUIRE(got.size() == want.size());
    for (size_t i = 0; i < want.size(); ++i)
      for (const char* key : {"loss", "validation_loss", "gradient_norm"}) {
        REQUIRE(got[i].contains(key) == want[i].contains(key));
        if (want[i].contains(key)) CHECK(log_ratio(got[i][key], want[i][key]) <= kFloatBound);
      }
  }
}

TEST_CASE("ensemble evaluate: perplexities and matrix are the CPU's, of the same experts and of each device's own") {
  const auto evaluate = [](const std::string& run, const std::string& device) {
    return staged().json({"ensemble", "evaluate", "--experts", run + "/experts", "--topk", "1,2", "--matrix"}, device);
  };
  const Json want = evaluate("cpu", "cpu");
  for (const std::string run : {"cpu", "cuda"}) {
    CAPTURE(run);
    const Json got = evaluate(run, "cuda");
    REQUIRE(got["sweep"].size() == 2);
    for (size_t i = 0; i < 2; ++i) {
      CHECK(got["sweep"][i]["tokens"] == want["sweep"][i]["tokens"]);
      CHECK(log_ratio(got["sweep"][i]["perplexity"], want["sweep"][i]["perplexity"]) <= kFloatBound);
    }
    for (size_t expert = 0; expert < 2; ++expert)
      for (size_t cluster = 0; cluster < 3; ++cluster)
        CHECK(log_ratio(got["matrix"][expert][cluster], want["matrix"][expert][cluster]) <= kFloatBound);
  }
}

// The text is the same unless two tokens are as likely within kFloatBound; of these experts none are.
TEST_CASE("ensemble generate: the CPU's text, greedy and drawn") {
  const Words command = {"ensemble",   "generate", "--experts", "cpu/experts",      "--prompt",
                         "oven dough", "--topk",   "2",         "--max-new-tokens", "8"};
  for (const Words& sampling : {Words{"--greedy"}, Words{"--temperature", "0.8", "--sampling-top-k", "20"}}) {
    CAPTURE(sampling.front());
    const Json want = staged().json(command + sampling, "cpu"), got = staged().json(command + sampling, "cuda");
    CHECK(got["ids"] == want["ids"]);
    CHECK(got["text"] == want["text"]);
  }
}

TEST_CASE("ensemble --memory: experts are streamed, which is said once, to the same results") {
  const Words generate = {"ensemble", "generate", "--experts", "cpu/experts",      "--prompt", "oven dough",
                          "--topk",   "2",        "--greedy",  "--max-new-tokens", "8"};
  const Words evaluate = {"ensemble", "evaluate", "--experts", "cpu/experts", "--topk", "1,2", "--matrix"};
  for (const auto& [command, memory] : {std::pair{generate, "220K"}, {evaluate, "150K"}}) {  // 126 KiB an expert
    CAPTURE(command[1]);
    Json want = staged().json(command, "cuda");
    const Outcome outcome =
        succeed(staged().run(command + Words{"--memory", memory, "--json", "streamed.json"}, "cuda"));
    const size_t said = outcome.errors.find("weights are streamed from pinned memory");
    CHECK(said != std::string::npos);
    CHECK(outcome.errors.find("streamed", said + 20) == std::string::npos);
    Json got = read_json_file(staged() / "streamed.json");
    for (Json* json : {&want, &got})
      for (const char* key : {"seconds", "settings"}) json->erase(key);
    CHECK(got == want);
    check_error(staged().run(command + Words{"--memory", "100K", "--quiet"}, "cuda"), 1, "its weights take 1");
  }
}

TEST_CASE("logits: the CPU's") {
  std::vector<std::vector<float>> logits;
  for (const std::string device : {"cpu", "cuda"}) {
    succeed(staged().run({"logits", "--model", "cpu/experts/000", "--ids", "ids.json", "--out", "logits.safetensors"},
                         device));
    logits.push_back(TensorFile::open(staged() / "logits.safetensors").at("logits").values<float>());
    REQUIRE(logits.back().size() == 2 * 3 * 384);
  }
  CHECK(largest_difference(logits[1], logits[0]) <= kFloatBound);
}

TEST_CASE("run: everything in order in 16 bits, the GPU's default, comes near the CPU's float32") {
  const auto run = [](const std::string& device) {
    return staged().json(
        Words{"run", "--corpus", "corpus.jsonl", "--k", "2", "--dimensions", "8", "--vocab-size", "384", "--config",
              "model.json", "--seed-tokens", "384", "--tokens", "768", "--snapshots", "0", "--out", "run-" + device} +
            kTraining,
        device);
  };
  const Json want = run("cpu")["evaluation"], got = run("cuda")["evaluation"];
  CHECK(fs::exists(staged() / "run-cuda/report.html"));
  CHECK(got["tokens"] == want["tokens"]);
  for (const char* model : {"seed", "dense"}) CHECK(log_ratio(got[model], want[model]) <= kBf16Bound);
  REQUIRE(got["top_k"].size() == want["top_k"].size());
  for (size_t i = 0; i < want["top_k"].size(); ++i)
    CHECK(log_ratio(got["top_k"][i][1], want["top_k"][i][1]) <= kBf16Bound);
  // The same command again finds all of it done.
  CHECK(run("cuda")["evaluation"] == got);
}

TEST_CASE("train_expert: stopped by a signal it goes on from the saved state, to the same bits") {
  const Words shard_2 = Words{"train_expert", "--run", "cuda",        "--shard",       "2", "--steps", "25",
                              "--save-every", "1",     "--precision", half_precision()} +
                        kTraining;
  const fs::path weights = staged() / "cuda/experts/002/model.safetensors";
  succeed(staged().run(shard_2, "cuda"));
  const std::string uninterrupted = file_contents(weights);
  fs::remove_all(staged() / "cuda/experts/002");

  Process process(cbtm_command(shard_2 + Words{"--device", "cuda", "--threads", "1"}), staged().path());
  while (!process.ended() && !fs::exists(staged() / "cuda/training/expert-002/state-00000001.safetensors"))
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  process.send(SIGTERM);
  const Outcome stopped = process.wait();
  CAPTURE(stopped.errors);
  CHECK(stopped.exit_code == 75);
  CHECK_FALSE(fs::exists(weights));
  const Outcome resumed = succeed(staged().run(shard_2, "cuda"));
  CHECK(resumed.errors.find("goes on after step") != std::string::npos);
  CHECK(file_contents(weights) == uninterrupted);
  fs::remove_all(staged() / "cuda/experts/002");
}

TEST_CASE("devices lists the GPU; auto takes it and says so; a number that is not there is an error") {
  const Json devices = staged().json({"devices"}, "cpu")["devices"];
  REQUIRE(devices.size() >= 2);
  CHECK(devices[1]["name"] == "cuda:0");
  CHECK(devices[1]["usable"] == true);
  CHECK(devices[1]["free_bytes"].get<int64_t>() > 0);
  const Words logits = {"logits", "--model", "cpu/seed", "--ids", "ids.json", "--out", "logits.safetensors"};
  CHECK(succeed(staged().run(logits, "auto")).errors.starts_with("device: cuda:0 ("));
  check_error(staged().run(logits, "cuda:" + std::to_string(devices.size() - 1)), 1, "numbered from 0");
}

/// `command` where no GPU is seen: with the real runtime library, and a machine's own GPUs hidden.
Outcome run_without_gpu(const Words& command) {
  return run_program(Words{"env", "-u", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES="} + cbtm_command(command),
                     staged().path());
}

TEST_CASE("without a GPU --device cuda is an error, never a run on the CPU; auto takes the CPU and says so") {
  const Words logits = {"logits", "--model", "cpu/seed", "--ids", "ids.json", "--out", "nothing.safetensors"};
  const Words commands[] = {
      logits,
      kCluster + Words{"--out", "nothing"},
      Words{"train_seed", "--run", "cpu", "--config", "model.json", "--steps", "1", "--redo"} + kTraining,
      train_expert("cpu", "2"),
      {"evaluate", "--model", "cpu/seed", "--run", "cpu"},
      {"generate", "--model", "cpu/seed", "--prompt", "oven", "--max-new-tokens", "1"},
      {"ensemble", "evaluate", "--experts", "cpu/experts"},
      {"ensemble", "generate", "--experts", "cpu/experts", "--prompt", "oven", "--max-new-tokens", "1"}};
  for (const Words& command : commands) {
    CAPTURE(command.front());
    check_error(run_without_gpu(command + Words{"--device", "cuda", "--quiet"}), 1, "use --device cpu");
  }
  CHECK_FALSE(fs::exists(staged() / "nothing.safetensors"));
  CHECK_FALSE(fs::exists(staged() / "nothing/shards"));
  CHECK_FALSE(fs::exists(staged() / "cpu/experts/002"));
  CHECK(succeed(run_without_gpu(logits + Words{"--device", "auto"})).errors.starts_with("device: cpu ("));
  const std::string listed = succeed(run_without_gpu({"devices"})).output;
  CHECK(listed.find("cuda    cannot be used: ") != std::string::npos);
}

}  // namespace
}  // namespace cbtm
