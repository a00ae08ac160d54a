#pragma once

#include "cbtm/device/tensor.h"

namespace cbtm {

/// What a device does together with the others of its group (Device::connect). Each device's thread calls the same
/// operations in the same order. An operation reads what the operators called before it write, and runs beside those
/// called after it, until join(). Operands are contiguous; every device of the group gets the same bits.
class Collectives {
 public:
  virtual ~Collectives() = default;
  virtual int rank() const = 0;  ///< of this device, from 0
  virtual int size() const = 0;  ///< devices in the group

  /// own [1, n] = rank's n elements of the sum of all devices' `values` [1, size * n]; float32.
  virtual void reduce_scatter(ConstTensorView values, TensorView own) = 0;
  /// sum [1, n] = sum of all devices' `values` [1, n]; float32 or float64. May be in place.
  virtual void all_reduce(ConstTensorView values, TensorView sum) = 0;
  /// all [1, size * n] = the `own` [1, n] of every device, by rank; any type.
  virtual void all_gather(ConstTensorView own, TensorView all) = 0;

  /// Operators called from now on run after the operations called so far. Does not wait.
  virtual void join() = 0;
  /// Waits for the operators called so far. Throws DeviceError if an operation of the group has failed, which, without
  /// this, would never end.
  virtual void wait() = 0;
  /// Ends this device's operations, also those that wait for a device that failed: their results are undefined, and
  /// later calls throw DeviceError. On any thread.
  virtual void abort() noexcept = 0;
};

}  // namespace cbtm
