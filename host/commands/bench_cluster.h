#pragma once

#include "cbtm/base/json.h"
#include "cbtm/device/device.h"
#include "commands/command_line.h"

namespace cbtm {

/// The time of an iteration of balanced k-means on random points around as many centres as there are clusters. Prints a
/// line, and gives the figures as JSON.
Json bench_cluster(Device& device, const CommandLine& line);

}  // namespace cbtm
