#pragma once

#include <memory>
#include <string>

#include "cbtm/device/device.h"

namespace cbtm {

/// One GPU as the driver reports it.
struct CudaDeviceInfo {
  int index = 0;
  std::string name;
  int compute_capability = 0;  ///< 80, 90, ...
  int multiprocessors = 0;
  int64_t memory_bytes = 0;
  int64_t free_bytes = 0;
  std::string problem;  ///< why this build cannot use it; empty if it can
};
struct CudaSystem {
  std::string driver;   ///< "13.0", or empty without a driver
  std::string problem;  ///< why there is no usable device at all; empty if some GPU was found
  int device_count = 0;
};

/// What the machine has; never throws for what it lacks. Touches no GPU.
CudaSystem cuda_system();

/// GPU number `index`, below device_count. Opens a context on it, which takes some hundred megabytes of its memory.
CudaDeviceInfo cuda_device_info(int index);

/// GPU number `index`. Throws Error if it is not there or this build cannot run on it.
std::unique_ptr<Device> make_cuda_device(int index);

}  // namespace cbtm
