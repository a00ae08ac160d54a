#pragma once

#include <cstdint>
#include <span>

namespace cbtm {

/// Seconds from the first start to the last end when jobs run on `devices` devices, one job on a device at a time: each
/// device that becomes free takes the next job of the list, as `train_expert --all` hands out experts. `seconds` of
/// each job, in order. Asserts devices >= 1 and that no duration is negative.
double makespan(std::span<const double> seconds, int64_t devices);

}  // namespace cbtm
