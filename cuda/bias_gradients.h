#pragma once

#include <cstdint>
#include <vector>

#include "cbtm/device/tensor.h"
#include "runtime/context.h"
#include "runtime/device_memory.h"

namespace cbtm::cuda {

/// The bias gradients of a backward pass. The products that make them can write a vector but not add to it; so they are
/// held back here, and one launch adds them all to where they belong.
class BiasGradients {
 public:
  explicit BiasGradients(Context& context) : context_(context) {}

  /// Bytes that a vector of so many columns takes until add_held().
  static int64_t held_bytes(int64_t columns);
  /// Takes memory for so many bytes now.
  void reserve(int64_t bytes);

  /// float32 [1, columns] for the caller to write: add_held() adds it to `target`.
  TensorView hold(TensorView target);
  /// Adds what is held, and holds nothing any more. The same calls of hold() before get the same memory again, so that
  /// they can be recorded.
  void add_held();
  /// What is held is not added: the pass that made it was given up.
  void forget();

 private:
  Context& context_;
  DeviceMemory memory_;
  int64_t used_ = 0;               ///< bytes of memory_ that are held
  int64_t pass_bytes_ = 0;         ///< of all vectors since the last add_held() of a caller
  std::vector<int32_t> segments_;  ///< of the vectors held, four words each (bias_gradients.cu)
  int64_t columns_max_ = 0;
};

}  // namespace cbtm::cuda
