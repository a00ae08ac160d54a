// cbtm plan: what it prints and writes, by a given rate and by a probe, and what it refuses.

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>

#include "tests/commands/process.h"
#include "tests/commands/tiny_run.h"

namespace cbtm {
namespace {

/// A corpus of 270 documents and a small model in a directory of its own.
class PlanDirectory {
 public:
  PlanDirectory() {
    std::ofstream(directory_ / "corpus.jsonl") << tiny_corpus();
    std::filesystem::copy_file(tiny_run() / "model.json", directory_ / "model.json");
  }

  Outcome plan(const std::vector<std::string>& more,
               const std::vector<std::string>& model = {"--config", "model.json"}) const {
    std::vector<std::string> words = {"plan", "--corpus", "corpus.jsonl", "--vocab-size",   "384", "--sequence",
                                      "32",   "--tokens", "3840",         "--batch-tokens", "384", "--threads",
                                      "1"};
    words.insert(words.end(), model.begin(), model.end());
    words.insert(words.end(), more.begin(), more.end());
    return run_cbtm(words, directory_.path());
  }
  Json json(const std::string& name) const { return read_json_file(directory_ / name); }
  const std::filesystem::path& path() const { return directory_.path(); }

 private:
  TemporaryDirectory directory_;
};

const Json& system_named(const Json& plan, const std::string& name) {
  for (const Json& system : plan["systems"])
    if (system["name"] == name) return system;
  FAIL("no system ", name);
  return plan;
}

double stage_seconds(const Json& system, const std::string& name, const char* key) {
  for (const Json& stage : system["stages"])
    if (stage["name"] == name) return stage[key].get<double>();
  FAIL("no stage ", name);
  return 0;
}

TEST_CASE("plan: by a given rate nothing is measured, and every time follows from it") {
  const PlanDirectory directory;
  const Outcome outcome = succeed(directory.plan({"--k", "4,2", "--rate", "1000", "--devices", "2", "--price-per-hour",
                                                  "3.6", "--seed-tokens", "1920", "--json", "plan.json", "--quiet"}));
  CHECK(outcome.output.find("270 documents") != std::string::npos);
  CHECK(outcome.output.find("suggested: k = ") != std::string::npos);
  CHECK(outcome.output.find("the paper's relation") != std::string::npos);
  const Json plan = directory.json("plan.json");
  CHECK(plan["corpus"]["documents"] == 270);
  CHECK(plan["corpus"]["counted"] == true);
  CHECK(plan["trains_together"] == false);
  REQUIRE(plan["systems"].size() == 3);
  const Json& dense = system_named(plan, "dense");
  CHECK(dense["steps"] == 10);
  CHECK(dense["tokens"] == 3840.0);
  CHECK(stage_seconds(dense, "dense", "seconds_one_device") == doctest::Approx(3.84));
  CHECK(stage_seconds(dense, "seed", "seconds_one_device") == doctest::Approx(1.92));
  const Json& four = system_named(plan, "4 experts");
  CHECK(four["batch_sequences"] == 3);
  CHECK(four["tokens"] == 3840.0);
  CHECK(stage_seconds(four, "experts", "seconds_one_device") == doctest::Approx(3.84));
  CHECK(stage_seconds(four, "experts", "seconds_side_by_side") == doctest::Approx(1.92));
  CHECK(four["cost_side_by_side"].get<double>() == doctest::Approx(four["device_seconds"].get<double>() / 3600 * 3.6));
  for (const Json& stage : four["stages"]) CHECK(stage["one_device"] != "measured");
}

TEST_CASE("plan: a probe measures every training, and a sample the stages before them") {
  const PlanDirectory directory;
  const Outcome outcome = succeed(directory.plan({"--k", "2,3", "--probe-seconds", "20", "--json", "plan.json"}));
  CHECK(outcome.errors.find("timing ") != std::string::npos);
  const Json plan = directory.json("plan.json");
  for (const Json& system : plan["systems"]) {
    CAPTURE(system["name"].get<std::string>());
    CHECK(system["seconds_one_device"].get<double>() > 0);
    CHECK(system["training_memory"]["total"].get<int64_t>() > 0);
    for (const Json& stage : system["stages"]) {
      const std::string name = stage["name"];
      CAPTURE(name);
      CHECK(stage["seconds_one_device"].get<double>() > 0);
      const std::string basis = name == "tokenizer" || name == "cluster" ? "from a sample"
                                : name == "evaluate"                     ? "computed"
                                                                         : "measured";
      CHECK(stage["one_device"] == basis);
    }
  }
  CHECK(std::filesystem::exists(directory.path() / "plan.json"));
  size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(directory.path())) files += entry.exists() ? 1 : 0;
  CHECK(files == 3);  // corpus, model and plan: nothing else is left
}

TEST_CASE("plan: a study's fit suggests k") {
  const PlanDirectory directory;
  std::ofstream(directory.path() / "study.json") << Json{{"fit",
                                                          {{"intercept", 1.6},
                                                           {"slope", 0.0},
                                                           {"tokens_min", 1000},
                                                           {"tokens_max", 9000},
                                                           {"k_min", 2},
                                                           {"k_max", 8},
                                                           {"parameters", 1}}}};
  const Outcome outcome =
      succeed(directory.plan({"--k", "2,3,4", "--rate", "1000", "--study", "study.json", "--quiet"}));
  CHECK(outcome.output.find("suggested: k = 3: the study's fit gives 3.0 experts") != std::string::npos);
  std::ofstream(directory.path() / "other.json") << "{}";
  check_error(directory.plan({"--rate", "1000", "--study", "other.json"}), 1,
              "other.json: holds no fit of the best number of experts");
}

TEST_CASE("plan: what is refused, in one line") {
  const PlanDirectory directory;
  const auto refused = [&](const std::vector<std::string>& more, int exit_code, const std::string& expected) {
    check_error(directory.plan(more), exit_code, expected);
  };
  refused({"--k", "2,x"}, 2, "'x' is no number of experts");
  refused({"--k", "1"}, 2, "'1' is no number of experts, from 2");
  refused({"--k", "5"}, 2, "cannot be divided among 5 experts");
  refused({"--rate", "1000", "--k", "2", "--json", "corpus.jsonl"}, 1, "corpus.jsonl");
  refused({"--rate", "0"}, 2, "--rate");
  refused({"--devices", "0"}, 2, "--devices");
  refused({"--sequence", "65"}, 2, "--sequence");
  refused({"--larger", "huge", "--k", "2"}, 2, "use one of nano, micro");
  refused({"--rate", "1000", "--k", "2", "--memory", "1M", "--quiet"}, 1, "would fit");
  check_error(directory.plan({"--k", "2"}, {"--preset", "huge"}), 2, "--preset huge: unknown; use one of nano, micro");
  check_error(directory.plan({"--k", "2"}, {}), 2, "give one of --preset NAME, --config FILE and --init DIR");
  check_error(run_cbtm({"plan", "--preset", "nano"}), 2, "--corpus");
  check_error(run_cbtm({"plan", "--corpus", "corpus.jsonl", "--config", "model.json", "--vocab-size", "384",
                        "--sequence", "32", "--steps", "0", "--rate", "1000", "--quiet"},
                       directory.path()),
              2, "there is no step to plan");
  check_error(directory.plan({"--k", "384", "--tokens", "1e9", "--batch-tokens", "12288", "--rate", "1", "--quiet"}), 1,
              "--k 384 needs at least as many documents, but the corpus holds 270");
}

}  // namespace
}  // namespace cbtm
