#pragma once

#include <vector>

#include "tests/operators/operator_case.h"

namespace cbtm {

/// A weight matrix of a case as LinearForward takes it: of a floating type, or int8 or int4 with scales.
struct WeightOperands {
  Operand matrix, scales;
  std::vector<double> meant;  ///< [out, in]: the exact values that the codes and scales stand for
};

/// Uniform weights in [-scale, scale). `dtype`: f32, bf16 or f16; i8 for int8, u8 for int4.
WeightOperands add_weights(OperatorCase& one, DType dtype, int64_t out, int64_t in, uint64_t seed, double scale = 1,
                           Placement placement = {});

/// "int4" for u8, else the type's own name.
const char* weight_type_name(DType dtype);

}  // namespace cbtm
