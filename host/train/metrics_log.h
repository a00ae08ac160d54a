#pragma once

#include <filesystem>
#include <fstream>
#include <vector>

#include "cbtm/base/json.h"

namespace cbtm {

/// metrics.jsonl: one line per step. Opened at a step, it forgets the lines after it, which a killed run may have left.
class MetricsLog {
 public:
  /// `last_step`: what the training goes on after; 0: it begins, and an older file is replaced. Warns of steps up to it
  /// that the file lacks. Throws Error naming the file if it is there but cannot be read, or cannot be written.
  MetricsLog(const std::filesystem::path& path, int64_t last_step);
  /// Throws Error naming the file if it cannot be written.
  void add(const Json& line);
  /// The lines up to that step.
  const std::vector<Json>& earlier() const { return earlier_; }

 private:
  std::filesystem::path path_;
  std::vector<Json> earlier_;
  std::ofstream file_;
};

/// The whole lines of a metrics.jsonl that tell of a step; none if there is no such file. Throws Error naming the file
/// if it cannot be read.
std::vector<Json> read_metrics(const std::filesystem::path& path);

}  // namespace cbtm
