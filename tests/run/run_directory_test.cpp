#include "cbtm/run/run_directory.h"

#include <doctest/doctest.h>

#include "cbtm/base/error.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

TEST_CASE("a stage is missing, current, or changed in words") {
  const TemporaryDirectory directory;
  const RunDirectory run(directory.path() / "run");
  std::string difference;
  StageRecord record{
      .name = "cluster", .settings = {{"k", 8}, {"seed", 1}}, .inputs = {{"corpus", "abc"}}, .command = "cbtm cluster"};
  CHECK(stage_state(run, record, difference) == StageState::missing);
  record_stage(run, record);
  CHECK(stage_state(run, record, difference) == StageState::current);
  record_stage(run, {.name = "seed", .settings = Json::object(), .inputs = Json::object(), .command = ""});
  record.settings["k"] = 4;
  record.inputs["corpus"] = "def";
  CHECK(stage_state(run, record, difference) == StageState::changed);
  CHECK(difference == "k was 8, is 4; corpus has changed");
  CHECK(find_stage(run, "nothing").is_null());
  CHECK(run.expert(3).filename() == "003");
}

}  // namespace
}  // namespace cbtm
