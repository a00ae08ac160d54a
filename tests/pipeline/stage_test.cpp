// The one place that decides about stages: what is made, what is left alone, what is refused, what is recorded.

#include "cbtm/pipeline/stage.h"

#include <doctest/doctest.h>

#include <fstream>

#include "cbtm/base/error.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

/// A stage that makes a file of one line. Its hash is the line.
class LineStage {
 public:
  explicit LineStage(const RunDirectory& run) : run_(run) {
    stage.name = "line";
    stage.settings = {{"k", 8}, {"deep", {{"a", 1}}}};
    stage.inputs = {{"corpus", "abc"}};
    stage.command = "cbtm line";
    stage.result = run.root() / "line";
    stage.changed = "the line was made from something else";
    stage.remedy = "pass --redo";
    stage.find = [this]() -> std::optional<FoundResult> {
      if (!std::filesystem::exists(stage.result)) return std::nullopt;
      return FoundResult{.hash = line(), .own = own, .own_file = "its own file", .problem = problem};
    };
    stage.make = [this]() -> StageResult {
      ++made;
      std::ofstream(stage.result) << "made " << made;
      return {.hash = line(), .numbers = {{"made", made}}};
    };
  }
  LineStage(const LineStage&) = delete;

  std::string line() const {
    std::ifstream file(stage.result);
    std::string text;
    std::getline(file, text);
    return text;
  }
  bool run(bool redo = false) { return run_stage(run_, stage, redo); }

  Stage stage;
  std::optional<StageSummary> own;
  std::string problem;
  int made = 0;

 private:
  const RunDirectory& run_;
};

struct Workplace {
  TemporaryDirectory directory;
  RunDirectory run{directory.path()};
};

TEST_CASE("a stage is made once, and recorded with what it gave") {
  const Workplace place;
  LineStage line(place.run);
  CHECK(line.run());
  CHECK_FALSE(line.run());
  CHECK_FALSE(line.run(/*redo=*/true));  // nothing to make again
  const std::optional<StageSummary> record = find_stage(place.run, "line");
  REQUIRE(record);
  CHECK(record->settings == line.stage.settings);
  CHECK(record->inputs == line.stage.inputs);
  CHECK(record->command == "cbtm line");
  CHECK(record->result == "made 1");
  CHECK(record->numbers["made"] == 1);
  CHECK(record->version == CBTM_VERSION);
  CHECK(record->finished.ends_with("Z"));
  std::filesystem::remove(line.stage.result);
  CHECK(line.run());
}

TEST_CASE("what was made from something else is refused with what differs, and made again where that is asked") {
  const Workplace place;
  LineStage line(place.run);
  line.run();
  line.stage.settings["k"] = 4;
  line.stage.settings["deep"]["a"] = 2;
  line.stage.inputs["corpus"] = "def";
  CHECK_THROWS_WITH_AS(line.run(),
                       "the line was made from something else (a was 1, is 2; k was 8, is 4; corpus has changed); pass "
                       "--redo",
                       Error);
  CHECK(line.made == 1);
  CHECK(line.run(/*redo=*/true));
  CHECK_FALSE(line.run());
}

TEST_CASE("a record counts for the result that it names only") {
  const Workplace place;
  LineStage line(place.run);
  line.run();
  std::ofstream(line.stage.result) << "made by a process that died before it could record it";
  CHECK(line.run());
  CHECK(line.made == 2);
}

TEST_CASE("a result's own record is believed, and run.json made again from it") {
  const Workplace place;
  LineStage line(place.run);
  line.run();
  line.own = StageSummary{.settings = line.stage.settings,
                          .inputs = line.stage.inputs,
                          .command = "cbtm before",
                          .seconds = 7,
                          .numbers = {{"made", 1}}};
  std::filesystem::remove(place.run.run_json());
  CHECK_FALSE(line.run());
  const std::optional<StageSummary> record = find_stage(place.run, "line");
  REQUIRE(record);
  CHECK(record->command == "cbtm before");
  CHECK(record->seconds == 7);
  CHECK(record->numbers["made"] == 1);
  line.own->settings["k"] = 1;
  CHECK_THROWS_WITH_AS(line.run(), doctest::Contains("k was 1, is 8"), Error);
}

TEST_CASE("a result that cannot be used is refused, or made again where that is asked") {
  const Workplace place;
  LineStage line(place.run);
  line.run();
  line.problem = "it is damaged";
  CHECK_THROWS_WITH_AS(line.run(), doctest::Contains("(it is damaged); pass --redo"), Error);
  CHECK(line.run(/*redo=*/true));
}

}  // namespace
}  // namespace cbtm
