#include "cbtm/run/run_directory.h"

#include <doctest/doctest.h>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/run/stage_summary.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

TEST_CASE("a stage is missing, current, or changed in words") {
  const TemporaryDirectory directory;
  const RunDirectory run(directory.path() / "run");
  std::string difference;
  StageSummary record{
      .name = "cluster", .settings = {{"k", 8}, {"seed", 1}}, .inputs = {{"corpus", "abc"}}, .command = "cbtm cluster"};
  CHECK(stage_state(run, record, difference) == StageState::missing);
  record_stage(run, record);
  CHECK(stage_state(run, record, difference) == StageState::current);
  record_stage(run, {.name = "seed", .settings = Json::object(), .inputs = Json::object(), .command = ""});
  record.settings["k"] = 4;
  record.inputs["corpus"] = "def";
  CHECK(stage_state(run, record, difference) == StageState::changed);
  CHECK(difference == "k was 8, is 4; corpus has changed");
  CHECK(!find_stage(run, "nothing"));
  CHECK(run.expert(3).filename() == "003");
}

TEST_CASE("a record does not count for another result than the one it names") {
  const TemporaryDirectory directory;
  const RunDirectory run(directory.path() / "run");
  StageSummary record{.name = "tokenizer", .settings = Json::object(), .inputs = Json::object(), .result = "abc"};
  record_stage(run, record);
  std::string difference;
  CHECK(stage_state(run, record, difference) == StageState::current);
  record.result = "def";  // made again by a process that died before it could record it
  CHECK(stage_state(run, record, difference) == StageState::missing);
}

TEST_CASE("a run is refused where its places are taken") {
  const TemporaryDirectory directory;
  write_file_atomically(directory / "file", "precious");
  CHECK_THROWS_WITH_AS(prepare_run_directory(RunDirectory(directory / "file")), doctest::Contains("is a file"), Error);
  for (const std::string name : {"tokenizer/notes.txt", "experts/000/notes.txt", "shards/mine", "seed/notes.txt",
                                 "report.html", "run.json", "clusters.json"}) {
    CAPTURE(name);
    const TemporaryDirectory own;
    write_file_atomically(own / name, "precious");
    CHECK_THROWS_AS(prepare_run_directory(RunDirectory(own.path())), Error);
  }
  write_file_atomically(directory / "project/main.py", "precious");
  CHECK_NOTHROW(prepare_run_directory(RunDirectory(directory / "project")));
}

}  // namespace
}  // namespace cbtm
