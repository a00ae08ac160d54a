#pragma once

#include <cstdint>

#include "cbtm/base/half_types.h"

namespace cbtm {

// Weights as LinearForward (cbtm/device/linear_operands.h) takes them in inference, a row at a time. False, and nothing
// of use written, if a value is not finite.

/// codes[i] = row[i] / scale to nearest, scale = largest |row[i]| / 127: off by at most scale / 2.
bool quantise_int8(const float* row, int64_t in, int8_t* codes, float& scale);

/// int4_groups(in) groups of 16 bytes and their scales. Of some scales near that which takes a group's largest |value|
/// to -8, the one of least squared error: its root mean square is at most 1/14 of that largest value.
bool quantise_int4(const float* row, int64_t in, uint8_t* codes, f16* scales);

/// What int4 codes and scales stand for.
void dequantise_int4(const uint8_t* codes, const f16* scales, int64_t in, float* row);

}  // namespace cbtm
