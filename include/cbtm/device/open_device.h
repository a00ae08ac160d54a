#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cbtm/device/device.h"

namespace cbtm {

/// "cpu", "cuda", "cuda:1" or "auto" (the best there is; the choice is named on stderr). Throws Error if the device is
/// not there, never another one instead, or if it names several. `profile`: as of parse_profile_range, or empty.
std::unique_ptr<Device> open_device(std::string_view name, std::string_view profile = {});

/// Open devices that train together, or one.
class DeviceList {
 public:
  explicit DeviceList(std::vector<std::unique_ptr<Device>> devices);
  Device& front() const { return *devices_.front(); }
  /// All of them; not null.
  std::span<Device* const> all() const { return devices_; }

 private:
  std::vector<std::unique_ptr<Device>> owned_;
  std::vector<Device*> devices_;
};

/// As open_device, or several GPUs: "cuda:0,2", "cuda:0-3", "cuda:all". Throws Error if one is not there. This thread
/// may use the first of them.
DeviceList open_devices(std::string_view name, std::string_view profile = {});

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
