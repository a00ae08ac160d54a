#pragma once

#include <utility>

#include "cbtm/base/error.h"

namespace cbtm {

/// An Error of the device rather than of what it was given: memory, the driver, a kernel. What lies in the device's
/// memory may be lost, and this process may be unable to go on with the device.
class DeviceError : public Error {
 public:
  using Error::Error;
};

/// Throws DeviceError with a formatted message (fmt syntax).
template <typename... Arguments>
[[noreturn]] void fail_device(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  throw DeviceError(fmt::format(format, std::forward<Arguments>(arguments)...));
}

}  // namespace cbtm
