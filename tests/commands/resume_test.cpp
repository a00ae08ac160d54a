// Trainings that are killed, stopped, starved and damaged, and then go on: bitwise as if nothing had happened.

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <fstream>
#include <functional>
#include <thread>

#include "cbtm/base/error.h"
#include "cbtm/base/philox.h"
#include "tests/commands/process.h"
#include "tests/commands/tiny_run.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr int64_t kSteps = 150;
const std::vector<std::string> kTrainExpert =
    tiny_training({"train_expert", "--shard", "1"}, {"--steps", std::to_string(kSteps), "--save-every", "1"});

/// The weights of an expert that was never interrupted, and how long it took.
struct Reference {
  Reference() {
    const auto start = Clock::now();
    succeed(run_cbtm(kTrainExpert, run.path()));
    seconds = std::chrono::duration<double>(Clock::now() - start).count();
    weights = file_contents(run / "run/experts/001/model.safetensors");
    card = read_json_file(run / "run/experts/001/expert.json");
    REQUIRE(!weights.empty());
  }
  TinyRunCopy run;
  double seconds = 0;
  std::string weights;
  Json card;
};
const Reference& reference() {
  static const Reference made;
  return made;
}

std::vector<int64_t> metric_steps(const fs::path& path) {
  std::vector<int64_t> steps;
  std::ifstream file(path);
  for (std::string text; std::getline(file, text);)
    if (const Json line = Json::parse(text, nullptr, false); line.is_object()) steps.push_back(line["step"]);
  return steps;
}

/// The expert in `run` is the one that was never interrupted, and nothing of the work is left.
void check_finished(const TinyRunCopy& run) {
  CHECK(file_contents(run / "run/experts/001/model.safetensors") == reference().weights);
  Json card = read_json_file(run / "run/experts/001/expert.json");
  Json expected = reference().card;
  for (Json* json : {&card, &expected}) {
    for (const char* key : {"training_seconds", "computed_on"}) (*json)["training"].erase(key);
    json->erase("card_hash");  // of the seconds too
  }
  CHECK(card == expected);
  std::vector<int64_t> every_step;
  for (int64_t step = 0; step <= kSteps; ++step) every_step.push_back(step);
  CHECK(metric_steps(run / "run/experts/001/metrics.jsonl") == every_step);
  CHECK_FALSE(fs::exists(run / "run/training"));
}

fs::path work(const TinyRunCopy& run) { return run / "run/training/expert-001"; }

/// The names of the saved states, oldest first.
std::vector<std::string> states(const TinyRunCopy& run) {
  std::vector<std::string> names;
  if (fs::exists(work(run)))
    for (const auto& entry : fs::directory_iterator(work(run)))
      if (entry.path().extension() == ".safetensors") names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

/// Starts the training and, once it has taken `step` steps, sends it `signal`.
Outcome stop_at(const TinyRunCopy& run, int64_t step, int signal) {
  Process process(cbtm_command(kTrainExpert), run.path());
  while (!process.ended()) {
    if (const std::vector<int64_t> steps = metric_steps(work(run) / "metrics.jsonl");
        !steps.empty() && steps.back() >= step) {
      process.send(signal);
      break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return process.wait();
}

TEST_SUITE_BEGIN("end_to_end");

TEST_CASE("killed at any moment and started again, a training ends with the same bits") {
  const TinyRunCopy run;
  PhiloxStream random(2024, 0);
  double longest = reference().seconds / 2;  // of a wait; follows the machine, which may be busy now and idle next
  int killed = 0, resumed = 0;
  for (int attempt = 0; attempt < 200 && (killed < 10 || resumed < 3); ++attempt) {
    Process process(cbtm_command(kTrainExpert), run.path());
    std::this_thread::sleep_for(std::chrono::duration<double>(longest * (0.1 + 0.9 * random.next_uniform())));
    process.send(SIGKILL);
    const Outcome outcome = process.wait();
    CAPTURE(outcome.errors);
    CHECK((outcome.exit_code == 0 || outcome.exit_code == 128 + SIGKILL));
    CHECK(outcome.errors.find("warning") == std::string::npos);  // no state was ever half-written
    killed += outcome.exit_code == 128 + SIGKILL ? 1 : 0;
    resumed += outcome.errors.find("goes on after step") != std::string::npos ? 1 : 0;
    if (outcome.exit_code == 0) {  // too late: once more from the start, with shorter waits
      check_finished(run);
      fs::remove_all(run / "run/experts/001");
      longest *= 0.7;
    } else if (states(run).empty()) {
      longest *= 1.2;
    }
  }
  CHECK(killed >= 10);
  CHECK(resumed >= 3);
  succeed(run_cbtm(kTrainExpert, run.path()));
  check_finished(run);
}

TEST_CASE("asked to stop, a training saves, says so with its own exit code, and goes on from there") {
  const TinyRunCopy run;
  int64_t step = 5;
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1}) {
    const Outcome outcome = stop_at(run, step, signal);
    CAPTURE(outcome.errors);
    REQUIRE(outcome.exit_code == kExitInterrupted);
    const std::string last = outcome.errors.substr(outcome.errors.rfind("cbtm: "));
    CHECK(last.find("stopped by signal " + std::to_string(signal)) != std::string::npos);
    CHECK(last.find("the same command goes on") != std::string::npos);
    CHECK(states(run).size() == 2);
    step = metric_steps(work(run) / "metrics.jsonl").back() + 5;
  }
  const Outcome outcome = succeed(run_cbtm(kTrainExpert, run.path()));
  CHECK(outcome.errors.find("goes on after step") != std::string::npos);
  check_finished(run);
  CHECK(succeed(run_cbtm(kTrainExpert, run.path())).errors.find("done already") != std::string::npos);
}

TEST_CASE("schedulers send several signals, and the state is saved all the same") {
  struct Signals {
    int first, second;
  };
  for (const Signals signals :
       {Signals{SIGUSR1, SIGTERM}, Signals{SIGTERM, SIGTERM}, Signals{SIGHUP, SIGTERM}, Signals{SIGTERM, SIGINT}}) {
    CAPTURE(signals.first);
    CAPTURE(signals.second);
    const TinyRunCopy run;
    // Large steps: the second signal comes while the step that the first one ends is still computed.
    const std::vector<std::string> command = {
        "train_expert", "--run",          "run",   "--shard",       "1",  "--sequence", "32", "--steps",
        "1000000",      "--batch-tokens", "98304", "--micro-batch", "32", "--threads",  "1"};
    Process process(cbtm_command(command), run.path());
    const fs::path metrics = run / "run/training/expert-001/metrics.jsonl";
    while (!process.ended() && metric_steps(metrics).size() < 2)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    process.send(signals.first);
    process.send(signals.second);
    const Outcome outcome = process.wait();
    CAPTURE(outcome.errors);
    CHECK(outcome.exit_code == kExitInterrupted);
    CHECK(states(run).size() >= 1);
  }
}

TEST_CASE("a damaged state is named and the one before it taken") {
  const std::function<void(const fs::path&)> damages[] = {
      [](const fs::path& path) { fs::resize_file(path, fs::file_size(path) - 1); },
      [](const fs::path& path) { fs::resize_file(path, 0); },
      [](const fs::path& path) {
        std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
        file.seekp(-1000, std::ios::end);
        file.write("damage", 6);
      }};
  for (const auto& damage : damages) {
    const TinyRunCopy run;
    REQUIRE(stop_at(run, 20, SIGTERM).exit_code == kExitInterrupted);
    const std::vector<std::string> kept = states(run);
    REQUIRE(kept.size() == 2);
    damage(work(run) / kept.back());
    const Outcome outcome = succeed(run_cbtm(kTrainExpert, run.path()));
    CAPTURE(outcome.errors);
    CHECK(outcome.errors.find("cbtm: warning: ") != std::string::npos);
    CHECK(outcome.errors.find(kept.back()) != std::string::npos);
    const int64_t before = std::stoll(kept.front().substr(6));
    CHECK(outcome.errors.find("goes on after step " + std::to_string(before) + " of") != std::string::npos);
    check_finished(run);
  }
}

TEST_CASE("other settings do not touch an unfinished training") {
  const TinyRunCopy run;
  REQUIRE(stop_at(run, 5, SIGTERM).exit_code == kExitInterrupted);
  const std::vector<std::string> kept = states(run);
  std::vector<std::string> other = kTrainExpert;
  other.insert(other.end(), {"--dropout", "0.2", "--quiet"});
  check_error(run_cbtm(other, run.path()), kExitUsage, "dropout was 0.1, is 0.2");
  CHECK(states(run) == kept);
  succeed(run_cbtm(kTrainExpert, run.path()));
  check_finished(run);
}

TEST_CASE("a disk that fills up while a state is saved leaves the state before it") {
  const TinyRunCopy run;
  REQUIRE(stop_at(run, 5, SIGTERM).exit_code == kExitInterrupted);
  const std::vector<std::string> kept = states(run);
  const std::string newest = file_contents(work(run) / kept.back());
  // Less than a state, more than all other files.
  const auto limit = static_cast<int64_t>(newest.size()) / 2 / 1024;
  const Outcome outcome = run_program(with_small_files(limit, cbtm_command(kTrainExpert)), run.path());
  CAPTURE(outcome.errors);
  CHECK(outcome.exit_code == kExitFailure);
  const std::string last = outcome.errors.substr(outcome.errors.rfind("cbtm: "));
  CHECK(last.find("writing failed") != std::string::npos);
  CHECK(last.find("state-") != std::string::npos);
  CHECK(std::count(last.begin(), last.end(), '\n') == 1);
  CHECK(states(run) == kept);
  CHECK(file_contents(work(run) / kept.back()) == newest);
  succeed(run_cbtm(kTrainExpert, run.path()));
  check_finished(run);
}

TEST_CASE("two processes do not train one expert at once") {
  const TinyRunCopy run;
  Process first(cbtm_command(kTrainExpert), run.path());
  while (!first.ended() && metric_steps(work(run) / "metrics.jsonl").size() < 3)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  first.send(SIGSTOP);
  std::vector<std::string> quiet = kTrainExpert;
  quiet.emplace_back("--quiet");
  check_error(run_cbtm(quiet, run.path()), kExitFailure, "another process is training it");
  first.send(SIGCONT);
  succeed(first.wait());
  check_finished(run);
}

TEST_CASE("killed between the two renames that replace an expert, the old one is found again") {
  const TinyRunCopy run;
  succeed(run_cbtm(kTrainExpert, run.path()));
  fs::rename(run / "run/experts/001", run / "run/experts/001.previous");
  fs::create_directories(run / "run/experts/001.partial-4711");
  fs::copy_file(run / "run/experts/001.previous/config.json", run / "run/experts/001.partial-4711/config.json");
  const std::vector<std::string> generate = {"ensemble", "--experts", "run/experts",      "--prompt",
                                             "oven",     "--greedy",  "--max-new-tokens", "4"};
  succeed(run_cbtm(generate, run.path()));
  CHECK(fs::exists(run / "run/experts/001/model.safetensors"));
  // Killed a moment later, both are there: the new one counts.
  fs::copy(run / "run/experts/001", run / "run/experts/001.previous");
  succeed(run_cbtm(generate, run.path()));
  CHECK(succeed(run_cbtm(kTrainExpert, run.path())).errors.find("done already") != std::string::npos);
  check_finished(run);
}

TEST_SUITE_END();

}  // namespace
}  // namespace cbtm
