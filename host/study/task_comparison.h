#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cbtm/study/results.h"

namespace cbtm::study {

/// Accuracies of one way to use a system in one task: [random seeds of the study][seeds of the task].
struct TaskEntry {
  std::string task;
  System system;
  std::string router;
  int64_t top_k = 1;
  std::vector<uint64_t> seeds;
  std::vector<std::vector<double>> accuracies;
  std::vector<const std::vector<double>*> right;  ///< by seed: [test lines]

  /// Over all seeds.
  double mean() const;
};

/// By task, system, router and number of experts; at the learning rates that were chosen.
std::vector<TaskEntry> task_entries(const Results& results);

/// Accuracy of `a` minus that of `b`, with a bootstrap over the test lines. Nothing if they share no random seed.
std::optional<Estimate> accuracy_difference(const Config& config, const TaskEntry& a, const TaskEntry& b);

}  // namespace cbtm::study
