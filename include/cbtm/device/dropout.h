#pragma once

#include <cstdint>

#include "cbtm/base/philox.h"
#include "cbtm/device/tensor.h"

namespace cbtm {

/// Decisions of a dropout are bytes: one is dropped when its byte is below drop_limit of 256, so that probabilities
/// come in steps of 1/256 (0.1 is 26/256); what is kept is multiplied by 256 / (256 - limit), for the expectation to
/// stay.
constexpr int kDropoutSteps = 256;
/// The least probability, but 0, that bytes can decide about: half a step is rounded to a whole one.
constexpr double kDropoutMin = 0.5 / kDropoutSteps;

/// Which elements a dropout zeroes, decided by Philox4x32-7 with the key `seed` and the counter {N low, N high, site,
/// step}: sixteen bytes a call, of which byte b of word w is bits 8 b .. 8 b + 7. The same on every device, whatever
/// the micro-batch, and redrawn by the backward pass. docs/numerics.md, 'Dropout', says why.
///
/// Of a matrix, element (r, c): N = (first_row + r) * groups + c / 16, groups = width / 16 rounded up; word c % 16 / 4,
/// byte c % 4. Of attention probabilities see AttentionShape.
struct Dropout {
  float probability = 0;  ///< 0 (none), or from kDropoutMin to below 1 - kDropoutMin
  uint64_t seed = 0;
  uint32_t step = 0;
  uint32_t site = 0;
  int64_t first_row = 0;  ///< number of row 0 of the operands within the step's global batch
  /// int64 [1, 2] on the device, {step, first_row}: taken when the operator runs, in place of the two fields above, so
  /// that recorded operators can be run again for other steps. Or empty.
  ConstTensorView place;

  bool active() const { return probability > 0; }
  /// Bytes below it are dropped.
  uint32_t limit() const { return static_cast<uint32_t>(probability * kDropoutSteps + 0.5f); }
  float kept_scale() const { return static_cast<float>(kDropoutSteps) / static_cast<float>(kDropoutSteps - limit()); }
};

/// The sixteen decisions of group N.
CBTM_HOST_DEVICE inline PhiloxCounter dropout_group(uint64_t n, uint32_t site, uint32_t step, uint64_t seed) {
  return philox<kPhiloxDropoutRounds>(
      PhiloxCounter{{static_cast<uint32_t>(n), static_cast<uint32_t>(n >> 32), site, step}}, seed);
}

}  // namespace cbtm
