// The binary on several GPUs: one expert on all of them, an expert on each, and what it refuses. With one GPU alone
// only the refusals are tested, which is said (the simulator has four).

#include <doctest/doctest.h>

#include <chrono>
#include <cmath>
#include <csignal>
#include <thread>

#include "cuda_device.h"
#include "tests/commands/process.h"
#include "tests/cuda/half_precision.h"
#include "tests/cuda/workplace.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;

const Words kTraining = {"--sequence",      "32",   "--batch-tokens", "288",     "--steps",   "4",
                         "--learning-rate", "1e-2", "--precision",    "float32", "--threads", "1"};

Words train_expert(const std::string& run, const Words& which) {
  return Words{"train_expert", "--run", run} + which + kTraining;
}

/// A clustered run with a seed, "one", and a copy of it, "several". Made once, on the CPU.
const fs::path& place() {
  static const TemporaryDirectory directory;
  static const bool made = [] {
    write_workplace(directory.path());
    const Words cpu = {"--device", "cpu", "--threads", "1"};
    succeed(run_cbtm(kCluster + Words{"--out", "one"} + cpu, directory.path()));
    succeed(
        run_cbtm(Words{"train_seed", "--run", "one", "--config", "model.json"} + kTraining + Words{"--device", "cpu"},
                 directory.path()));
    fs::copy(directory / "one", directory / "several", fs::copy_options::recursive);
    return true;
  }();
  static_cast<void>(made);
  return directory.path();
}

bool one_gpu_only() {
  if (static_cast<size_t>(cuda_system().device_count) > 1) return false;
  MESSAGE("SKIPPED: this machine has one GPU");
  return true;
}

std::vector<double> losses_of(const fs::path& model) {
  std::vector<double> losses;
  std::ifstream file(model / "metrics.jsonl");
  for (std::string line; std::getline(file, line);)
    if (const Json json = Json::parse(line); json.contains("loss")) losses.push_back(json["loss"]);
  return losses;
}

TEST_CASE("train_expert --all: an expert on each GPU, the bits of one GPU, and all GPUs for the dense model") {
  if (one_gpu_only()) return;
  succeed(run_cbtm(train_expert("one", {"--all"}) + Words{"--device", "cuda:1"}, place()));
  const Outcome outcome =
      succeed(run_cbtm(train_expert("several", {"--all"}) + Words{"--device", "cuda:all"}, place()));
  CHECK(outcome.errors.find("dense baseline: on each device, memory") != std::string::npos);
  for (const std::string expert : {"000", "001", "002"}) {
    const std::string weights = "experts/" + expert + "/model.safetensors";
    CHECK(file_contents(place() / "several" / weights) == file_contents(place() / "one" / weights));
  }
  const std::vector<double> want = losses_of(place() / "one/baseline"), got = losses_of(place() / "several/baseline");
  REQUIRE(want.size() == 4);
  REQUIRE(got.size() == want.size());
  for (size_t i = 0; i < want.size(); ++i) CHECK(std::abs(got[i] / want[i] - 1) <= 1e-5);  // data_parallel_test.cpp
}

TEST_CASE("train_expert --shard on two GPUs: stopped by a signal it goes on to the same bits") {
  if (one_gpu_only()) return;
  const Words command = {"train_expert",   "--run",    "several",        "--shard",   "1",
                         "--sequence",     "32",       "--steps",        "25",        "--redo",
                         "--save-every",   "1",        "--batch-tokens", "288",       "--precision",
                         half_precision(), "--device", "cuda:0,1",       "--threads", "1"};
  const fs::path expert = place() / "several/experts/001";
  fs::remove_all(expert);
  succeed(run_cbtm(command, place()));
  const std::string uninterrupted = file_contents(expert / "model.safetensors");
  fs::remove_all(expert);
  Process process(cbtm_command(command), place());
  while (!process.ended() && !fs::exists(place() / "several/training/expert-001/state-00000001.safetensors"))
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  process.send(SIGTERM);
  const Outcome stopped = process.wait();
  CAPTURE(stopped.errors);
  CHECK(stopped.exit_code == 75);
  CHECK_FALSE(fs::exists(expert));
  const Outcome resumed = succeed(run_cbtm(command, place()));
  CHECK(resumed.errors.find("goes on after step") != std::string::npos);
  CHECK(file_contents(expert / "model.safetensors") == uninterrupted);
}

TEST_CASE("an expert that fails leaves the others alone, and the same command trains it") {
  if (one_gpu_only()) return;
  const auto expert = [](const std::string& number) { return place() / "several/experts" / number; };
  for (const char* number : {"000", "001", "002"}) fs::remove_all(expert(number));
  const fs::path in_the_way = place() / "several/training/expert-001";  // a file where its states are to lie
  fs::create_directories(in_the_way.parent_path());
  std::ofstream(in_the_way) << "x";
  const Words command = train_expert("several", {"--all"}) + Words{"--device", "cuda:0-1"};
  const Outcome outcome = run_cbtm(command, place());
  CAPTURE(outcome.errors);
  CHECK(outcome.exit_code == 1);
  CHECK(outcome.errors.find("several/training/expert-001") != std::string::npos);
  CHECK(outcome.errors.find("cbtm: not trained to the end: expert 001; the same command goes on with it") !=
        std::string::npos);
  CHECK(fs::exists(expert("000") / "model.safetensors"));
  CHECK_FALSE(fs::exists(expert("001")));
  CHECK(fs::exists(expert("002") / "model.safetensors"));
  fs::remove(in_the_way);
  const Outcome again = succeed(run_cbtm(command, place()));
  CHECK(again.errors.find("expert/002: done already") != std::string::npos);
  CHECK(fs::exists(expert("001") / "model.safetensors"));
}

TEST_CASE("lists of GPUs that cannot be: one line each") {
  const Words expert = train_expert("one", {"--shard", "0", "--redo", "--quiet"});
  for (const auto& [device, code, text] : {std::tuple{"cuda:0,0", 2, "GPU 0 twice"},
                                           {"cuda:0-", 2, "use cuda, cuda:N"},
                                           {"cuda:1-0", 2, "use cuda, cuda:N"},
                                           {"cuda:0,", 2, "use cuda, cuda:N"},
                                           {"cuda:0,x", 2, "use cuda, cuda:N"},
                                           {"cuda:0,77", 1, "numbered from 0"}})
    check_error(run_cbtm(expert + Words{"--device", device}, place()), code, text);
  if (one_gpu_only()) return;
  check_error(run_cbtm({"evaluate", "--model", "one/seed", "--run", "one", "--quiet", "--device", "cuda:0,1"}, place()),
              2, "only trainings (run, train_seed, train_expert) use several GPUs");
  check_error(run_cbtm(Words{"train_expert", "--run", "one", "--shard", "0", "--redo", "--quiet", "--sequence", "32",
                             "--batch-tokens", "96", "--steps", "2", "--device", "cuda:0-3"},
                       place()),
              2, "does not keep");
}

}  // namespace
}  // namespace cbtm
