#pragma once

#include <filesystem>
#include <fstream>
#include <vector>

#include "cbtm/base/json.h"

namespace cbtm {

/// metrics.jsonl: a line a step. Opened at a step, it forgets the lines after it, which a killed run may have left.
class MetricsLog {
 public:
  MetricsLog(const std::filesystem::path& path, int64_t last_step);
  void add(const Json& line);
  /// The lines up to that step.
  const std::vector<Json>& earlier() const { return earlier_; }

 private:
  std::vector<Json> earlier_;
  std::ofstream file_;
};

/// The lines of a metrics.jsonl.
std::vector<Json> read_metrics(const std::filesystem::path& path);

}  // namespace cbtm
