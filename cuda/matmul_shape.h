#pragma once

#include <cublasLt.h>

#include <cstdint>
#include <string>

#include "matmul.h"

namespace cbtm::cuda {

/// All that the choice of an algorithm depends on.
struct MatmulShape {
  int64_t m = 0, n = 0, k = 0;
  int64_t a_stride = 0, b_stride = 0, c_stride = 0;
  int64_t a_batch_stride = 0, b_batch_stride = 0, c_batch_stride = 0;
  int batch_count = 1;
  bool transpose_a = false, transpose_b = false;
  DType in = DType::f32, out = DType::f32;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  int64_t mask_stride = 0;
  bool reads_c = false;
  uint32_t a_alignment = 0, b_alignment = 0, c_alignment = 0;
  uint32_t epilogue_alignment = 0;  ///< of its vector and its mask

  bool operator==(const MatmulShape&) const = default;
  std::string text() const;
};
struct MatmulShapeHash {
  size_t operator()(const MatmulShape& shape) const;
};

/// That of a product; asserts that its operands fit each other.
MatmulShape shape_of(const MatmulArguments& arguments);

/// The vector and the mask that the epilogue reads or writes, or null.
const void* epilogue_vector(const MatmulArguments& arguments);
const void* epilogue_mask(const MatmulArguments& arguments);

}  // namespace cbtm::cuda
