#pragma once

#include <array>
#include <filesystem>
#include <future>
#include <vector>

#include "train/training_state.h"

namespace cbtm {

/// Saves the states of a training. Where the host can read the device's memory a state is written at once; else it is
/// copied and written beside the steps that follow, one at a time.
class StateWriter {
 public:
  /// `saved_step`: the step of the state that is there already; 0: none.
  StateWriter(DataParallelModel& model, std::filesystem::path work_directory, Json identity, int64_t keep,
              int64_t saved_step)
      : model_(model),
        work_directory_(std::move(work_directory)),
        identity_(std::move(identity)),
        keep_(keep),
        saved_step_(saved_step) {}
  StateWriter(const StateWriter&) = delete;
  StateWriter& operator=(const StateWriter&) = delete;
  /// Waits; what goes wrong is a warning.
  ~StateWriter();

  /// Begins to save the state after the last step. Waits for the state before it; throws its Error.
  void save(const TrainingCounters& counters);
  /// Until the last state is on disk; throws its Error.
  void finish();
  /// The last step whose state is known to be on disk: finish() has waited for it. 0: none.
  int64_t saved_step() const { return saved_step_; }

 private:
  DataParallelModel& model_;
  std::filesystem::path work_directory_;
  Json identity_;
  int64_t keep_;
  int64_t saved_step_;
  std::array<std::vector<float>, 3> copies_;
  std::future<void> writing_;
  int64_t writing_step_ = 0;
};

}  // namespace cbtm
