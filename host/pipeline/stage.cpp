#include "cbtm/pipeline/stage.h"

#include <fmt/format.h>

#include <chrono>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"

namespace cbtm {
namespace {

StageSummary record_of(const Stage& stage) {
  return {.name = stage.name, .settings = stage.settings, .inputs = stage.inputs, .command = stage.command};
}

/// The result's own record into run.json, where that has none of this result.
void renew_record(const RunDirectory& run, const Stage& stage, const FoundResult& found) {
  StageSummary record = record_of(stage);
  record.result = found.hash;
  std::string ignored;
  if (stage_state(run, record, ignored) == StageState::current) return;
  record.command = found.own->command;
  record.numbers = found.own->numbers;
  record.seconds = found.own->seconds;
  record_stage(run, record);
  say(fmt::format("{}: its record in run.json is made again from {}", stage.name, found.own_file));
}

/// Throws Error if what is there was made from something else, unless `redo`.
bool is_due(const RunDirectory& run, const Stage& stage, bool redo) {
  const std::optional<FoundResult> found = stage.find();
  if (!found) return true;
  std::string difference = found->problem;
  if (difference.empty()) {
    StageSummary wanted = record_of(stage);
    wanted.result = found->hash;
    if (found->own)
      difference = stage_difference(found->own->settings, found->own->inputs, wanted);
    else if (stage_state(run, wanted, difference) == StageState::missing)
      return true;
  }
  if (!difference.empty()) {
    if (!redo) fail("{} ({}); {}", stage.changed, difference, stage.remedy);
    return true;
  }
  if (found->own) renew_record(run, stage, *found);
  say(fmt::format("{}: done already, in {}", stage.name, stage.result.string()));
  return false;
}

}  // namespace

bool run_stage(const RunDirectory& run, const Stage& stage, bool redo) {
  if (!is_due(run, stage, redo)) return false;
  for (const std::filesystem::path& directory : stage.directories) check_replaceable(directory);
  for (const std::filesystem::path& file : stage.result_files) check_writable(file, OutputKind::json);
  const auto start = std::chrono::steady_clock::now();
  const StageResult result = stage.make();
  StageSummary record = record_of(stage);
  record.result = result.hash;
  record.numbers = result.numbers;
  record.seconds =
      result.seconds.value_or(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  record_stage(run, record);
  return true;
}

}  // namespace cbtm
