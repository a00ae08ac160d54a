#pragma once

#include <cstdint>

namespace cbtm {

/// What an optimizer step consists of on one device.
struct StepTime {
  double micro_batch_seconds = 0;  ///< forward and backward pass of one micro-batch
  double update_seconds = 0;       ///< gradient norm and AdamW
};

/// Seconds of an optimizer step of `micro_batches` on `devices` devices that train one model together, from the times
/// of one device (docs/accounting.md, 'A plan'):
///
///   ceil(micro_batches / devices) * micro_batch + update / devices + exchange
///
/// The exchange takes exchange_bytes / link_bytes_per_second. 0 bytes per second: nothing is counted for it, which is
/// the case of an exchange that hides wholly behind the backward pass. Asserts that all counts are positive.
double step_seconds(const StepTime& one, int64_t micro_batches, int64_t devices, int64_t exchange_bytes,
                    double link_bytes_per_second);

}  // namespace cbtm
