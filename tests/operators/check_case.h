#pragma once

#include <string>
#include <vector>

#include "cbtm/device/device.h"
#include "tests/operators/operator_case.h"

namespace cbtm {

/// Runs a case on `device` and says what is wrong with the result, one line each. Nothing, if
///
///   every element of the result is within its bound of the reference,
///   operands that are only read, and what lies between and around the rows of all operands, are as they were,
///   a second call with the same operands gives the same bits.
std::vector<std::string> check_case(Device& device, const OperatorCase& one);

/// Says where the reference's gradients differ from finite differences of the objectives. No operator runs.
///
/// With D(h) the central difference of step h, the derivative is (4 D(h) - D(2h)) / 3, off by much less than
/// |D(h) - D(2h)| (Richardson's extrapolation), and by the rounding of the objective: less than 2^13 roundings of
/// float64, so 2^-40 of the terms it sums, divided by h.
std::vector<std::string> check_gradients(const OperatorCase& one);

}  // namespace cbtm
