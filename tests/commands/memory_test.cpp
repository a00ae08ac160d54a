// The memory that a training says it needs is the memory that it takes.

#include "cbtm/base/memory.h"

#include <doctest/doctest.h>

#include <cmath>
#include <csignal>
#include <fstream>
#include <thread>

#include "cbtm/base/error.h"
#include "tests/commands/process.h"
#include "tests/commands/tiny_run.h"

namespace cbtm {
namespace {

/// Bytes of "..., 255 MiB in all" of the line that tells of the plan.
double planned_bytes(const std::string& errors) {
  const size_t name = errors.find("  in all ");
  REQUIRE(name != std::string::npos);
  const size_t begin = errors.find_first_not_of(' ', name + std::string("  in all ").size());
  std::string size = errors.substr(begin, errors.find('\n', begin) - begin);
  size.erase(size.find(' '), 1);
  return static_cast<double>(parse_bytes(size, "the plan"));
}

std::vector<std::string> with_data_limit(double bytes, const std::vector<std::string>& command) {
  std::vector<std::string> words = {"prlimit", "--data=" + std::to_string(static_cast<int64_t>(bytes))};
  words.insert(words.end(), command.begin(), command.end());
  return words;
}

/// A seed whose parameters outweigh everything else, and an expert of it to train.
struct HeavyRun : TinyRunCopy {
  HeavyRun() {
    const Outcome outcome = succeed(run_cbtm(seed({"--redo"}), path()));
    planned = planned_bytes(outcome.errors);
    peak = static_cast<double>(outcome.peak_bytes);
  }
  static std::vector<std::string> flags(std::vector<std::string> words, const std::vector<std::string>& more) {
    words.insert(words.end(), {"--run", "run", "--sequence", "256", "--batch-tokens", "512", "--threads", "2",
                               "--learning-rate", "1e-4"});
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  static std::vector<std::string> seed(const std::vector<std::string>& more) {
    return flags({"train_seed", "--preset", "small", "--steps", "4"}, more);
  }
  static std::vector<std::string> expert(const std::vector<std::string>& more) {
    return flags({"train_expert", "--shard", "0", "--steps", "12", "--match", "batch"}, more);  // 4 steps
  }
  std::string weights(const std::string& model) const {
    return file_contents(path() / "run" / model / "model.safetensors");
  }
  double planned = 0, peak = 0;
};

TEST_SUITE_BEGIN("end_to_end");

TEST_CASE("a training takes what its plan says, within 5 percent, from a preset, from a seed, and when it goes on") {
  HeavyRun run;
  CAPTURE(run.planned);
  CAPTURE(run.peak);
  CHECK(std::abs(run.peak - run.planned) <= 0.05 * run.planned);

  // Under a limit just above the plan nothing is missing, snapshots and saved states included, and the plan is the
  // same.
  const Outcome expert = succeed(run_program(
      with_data_limit(1.06 * run.planned, cbtm_command(HeavyRun::expert({"--snapshots", "2", "--save-every", "1"}))),
      run.path()));
  CAPTURE(expert.errors);
  CHECK(expert.errors.find("all kept") != std::string::npos);
  CHECK(std::abs(planned_bytes(expert.errors) - run.planned) <= 0.05 * run.planned);
  const std::string weights = run.weights("experts/000");

  // Stopped after its first state, it goes on under the same limit.
  std::filesystem::remove_all(run / "run/experts/000");
  Process process(cbtm_command(HeavyRun::expert({"--save-every", "1"})), run.path());
  const std::filesystem::path state = run / "run/training/expert-000/state-00000001.safetensors";
  while (!process.ended() && !std::filesystem::exists(state)) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  process.send(SIGTERM);
  REQUIRE(process.wait().exit_code == kExitInterrupted);
  const Outcome resumed = succeed(run_program(
      with_data_limit(1.06 * run.planned, cbtm_command(HeavyRun::expert({"--save-every", "1"}))), run.path()));
  CHECK(resumed.errors.find("goes on after step") != std::string::npos);
  CHECK(run.weights("experts/000") == weights);
}

TEST_CASE("with less memory a training recomputes, to the same bits, or says what it lacks before it begins") {
  HeavyRun run;
  succeed(run_cbtm(HeavyRun::expert({}), run.path()));
  const std::string weights = run.weights("experts/000");
  int recomputed = 0, refused = 0;
  for (const double share : {1.0, 0.95, 0.87, 0.8, 0.6}) {
    CAPTURE(share);
    std::filesystem::remove_all(run / "run/experts/000");
    const Outcome outcome =
        run_program(with_data_limit(share * run.planned, cbtm_command(HeavyRun::expert({}))), run.path());
    CAPTURE(outcome.errors);
    if (outcome.exit_code == 0) {
      recomputed += outcome.errors.find("computed again") != std::string::npos;
      CHECK(run.weights("experts/000") == weights);
    } else {
      ++refused;
      CHECK(outcome.exit_code == kExitFailure);
      CHECK(outcome.errors.find("training needs") != std::string::npos);
    }
  }
  CHECK(recomputed >= 1);
  CHECK(refused >= 1);
}

TEST_SUITE_END();

}  // namespace
}  // namespace cbtm
