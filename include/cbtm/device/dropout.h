#pragma once

#include <cstdint>

#include "cbtm/device/tensor.h"

namespace cbtm {

/// Which elements a dropout zeroes: element e of site `site` in step `step` is dropped when
/// uniform_from_bits(philox({e/4 low, e/4 high, site, step}, seed).word[e % 4]) < probability, and scaled by
/// 1 / (1 - probability) otherwise. The same on every device, whatever the micro-batch, and redrawn by the backward
/// pass. probability 0 means none.
struct Dropout {
  float probability = 0;
  uint64_t seed = 0;
  uint32_t step = 0;
  uint32_t site = 0;
  int64_t first_row = 0;  ///< number of row 0 of the operands within the step's global batch
  /// int64 [1, 2] on the device, {step, first_row}: taken when the operator runs, in place of the two fields above, so
  /// that recorded operators can be run again for other steps. Or empty.
  ConstTensorView place;

  bool active() const { return probability > 0; }
};

}  // namespace cbtm
