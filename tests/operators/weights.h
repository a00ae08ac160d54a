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

/// A row of float32 activations as a product with weights of type `weight` may take it. A processor may round them to
/// bf16 for bf16 weights; for int8 weights it takes them as int8 (docs/numerics.md, 'Activations of int8 weights').
/// Other activations, and all for other weights, are exact.
std::vector<Bounded> multiplied_activations(const HostMatrix& activations, int64_t row, DType weight);

/// "int4" for u8, else the type's own name.
const char* weight_type_name(DType dtype);

}  // namespace cbtm
