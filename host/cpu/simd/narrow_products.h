#pragma once

#include <cstdint>

namespace cbtm::cpu {

/// A range of outputs of  out[r, o] = Σ input[r, i] weight[o, i],  for rows that NarrowProduct::prepare has prepared.
struct NarrowRange {
  char* operand;  ///< of all rows, at a multiple of 64 bytes
  int64_t rows, in;
  const void* weight;     ///< [out, in], of the product's type
  int64_t weight_stride;  ///< elements from row to row
  const float* scales;    ///< int8: one per output; else not read
  int64_t begin, end;     ///< outputs
  float* out;             ///< output 0 of row 0
  int64_t out_stride;
};

/// A product with weights of 8 or 16 bits by the processor's dot instructions. It reads its own form of the rows of
/// activations. What a row gets depends neither on the other rows nor on how outputs are cut into ranges. Pointers to
/// weights and outputs need no alignment.
struct NarrowProduct {
  /// Bytes of `rows` prepared rows. Linear in groups of kPreparedRows, so that threads can prepare a group each.
  int64_t (*operand_bytes)(int64_t rows, int64_t in) = nullptr;
  void (*prepare)(const float* input, int64_t input_stride, int64_t rows, int64_t in, char* operand) = nullptr;
  void (*multiply)(const NarrowRange& range) = nullptr;

  explicit operator bool() const { return multiply != nullptr; }
};

/// Rows that are prepared together.
inline constexpr int64_t kPreparedRows = 16;
/// Ranges of outputs start at a multiple of it.
inline constexpr int64_t kNarrowOutputs = 32;

/// The products of one level of instruction sets.
struct NarrowProducts {
  NarrowProduct int8;       ///< the same bits on every level
  NarrowProduct bf16 = {};  ///< float32 sums of bf16 products; empty: weights are widened, and multiplied as float32
  NarrowProduct int8_rows = {};  ///< the same bits as int8, faster for more than few_rows rows; or empty
  int64_t few_rows = 0;
};

/// Those of the level that kernels() chose.
const NarrowProducts& narrow_products();

}  // namespace cbtm::cpu
