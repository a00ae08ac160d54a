#pragma once

#include <cstdint>
#include <limits>
#include <string>

#include "cbtm/base/json.h"

namespace cbtm {

/// What a stage was computed on: the member `computed_on` of its summary in run.json, and of a model's `training` in
/// expert.json. Numbers that a file does not hold are NaN or -1.
struct DeviceUse {
  int64_t devices = -1;  ///< at once; of a training that was resumed, those of its last attempt
  std::string device;    ///< what the first of them is, for people; "host" if none was used
  /// Seconds times devices over all attempts. NaN for one device: it is then the stage's seconds.
  double device_seconds = std::numeric_limits<double>::quiet_NaN();
};

/// Adds `use` to a summary.
void add_device_use(Json& summary, const DeviceUse& use);
/// What a summary says of it. `file` names it in errors. Throws Error that names the key if a value has the wrong type.
DeviceUse parse_device_use(const Json& summary, const std::string& file);

}  // namespace cbtm
