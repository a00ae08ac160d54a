#pragma once

#include <cstdint>

#include "cbtm/device/linear_operands.h"
#include "cpu/simd/narrow_products.h"

namespace cbtm::cpu {

/// The product that a linear layer with bf16 or int8 weights goes through, or null: other weights, or the processor
/// multiplies float32 only.
const NarrowProduct* narrow_product(const NarrowProducts& products, const LinearForward& arguments);

/// Rows of activations that are prepared at a time: their operand stays in the second cache.
int64_t narrow_block_rows(const NarrowProduct& product, const LinearForward& arguments);

/// Floats of scratch that multiply_narrow needs for as many rows.
int64_t narrow_scratch(const NarrowProduct& product, const LinearForward& arguments);

/// The layer's products for `count` rows from `first_row` on, on thread_count() threads, without bias and activation.
void multiply_narrow(const NarrowProduct& product, const LinearForward& arguments, int64_t first_row, int64_t count,
                     float* scratch);

}  // namespace cbtm::cpu
