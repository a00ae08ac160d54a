#pragma once

#include <cstdint>
#include <limits>
#include <string>

#include "cbtm/base/json.h"

namespace cbtm {

/// What a training came to: `training` in expert.json, and the summary of its stage in run.json. Numbers that a file
/// does not hold are NaN or -1.
struct TrainingSummary {
  int64_t steps = -1;
  int64_t tokens = -1;
  int64_t skipped_steps = -1;                              ///< loss or gradient was not finite
  double loss = std::numeric_limits<double>::quiet_NaN();  ///< mean of the last tenth of the steps
  double held_out_loss = std::numeric_limits<double>::quiet_NaN();
  double training_seconds = std::numeric_limits<double>::quiet_NaN();  ///< of the steps, resumed ones included
};
Json training_summary_json(const TrainingSummary& summary);
/// Null and an empty object say nothing. Throws Error that names `file` and the key if a value has the wrong type.
TrainingSummary parse_training_summary(const Json& json, const std::string& file);

}  // namespace cbtm
