#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cbtm/device/device.h"

namespace cbtm {

/// "cpu", "cuda", "cuda:1" or "auto" (the best there is; the choice is named on stderr). Throws Error if the device is
/// not there: never another one instead. `profile`: as of parse_profile_range, or empty.
std::unique_ptr<Device> open_device(std::string_view name, std::string_view profile = {});

/// A device of this machine as `cbtm devices` shows it.
struct DeviceInfo {
  std::string name;         ///< as --device takes it: "cpu", "cuda:1"
  std::string description;  ///< what it is, for people
  int64_t free_bytes = 0;
  std::string problem;  ///< why it cannot be used; empty if it can
};
/// All there are, and a line that says why there is no GPU where there is none.
std::vector<DeviceInfo> list_devices();

}  // namespace cbtm
