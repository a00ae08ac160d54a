#pragma once

#include "cbtm/base/json.h"
#include "cbtm/device/device.h"

namespace cbtm {

/// What a device reaches with the plainest work: copying memory, products of large square matrices, and how long a
/// short operator takes. Prints a line for each, and gives them as JSON.
Json bench_device(Device& device);

}  // namespace cbtm
