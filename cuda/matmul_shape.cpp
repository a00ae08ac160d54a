#include "matmul_shape.h"

#include <fmt/format.h>

#include <algorithm>

namespace cbtm::cuda {
namespace {

/// Largest power of two up to 256 that divides the address.
uint32_t alignment_of(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  return static_cast<uint32_t>(std::min<uintptr_t>(256, address == 0 ? 256 : address & (~address + 1)));
}

// cuBLASLt stores by columns, we by rows: cᵀ = op(b)ᵀ op(a)ᵀ, so its A is our b, its B our a, its rows our columns.
cublasLtEpilogue_t epilogue_of(const MatmulArguments& m) {
  if (m.a_sums) {
    CBTM_ASSERT(!m.bias && !m.relu && !m.relu_derivative_mask, "sums of a come alone");
    return CUBLASLT_EPILOGUE_BGRADB;
  }
  if (m.relu_derivative_mask) {
    CBTM_ASSERT(!m.bias && !m.relu, "a derivative comes alone");
    return CUBLASLT_EPILOGUE_DRELU;
  }
  if (m.relu && m.relu_mask) return m.bias ? CUBLASLT_EPILOGUE_RELU_AUX_BIAS : CUBLASLT_EPILOGUE_RELU_AUX;
  if (m.relu) return m.bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU;
  return m.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

}  // namespace

const void* epilogue_vector(const MatmulArguments& m) { return m.a_sums ? m.a_sums.data : m.bias.data; }
const void* epilogue_mask(const MatmulArguments& m) {
  return m.relu_mask ? m.relu_mask.data : m.relu_derivative_mask.data;
}

std::string MatmulShape::text() const {
  return fmt::format(
      "{} {} {} strides {} {} {} batches {} {} {} {} transposed {:d}{:d} types {} {} epilogue {} {} {:d} "
      "alignment {} {} {} {}",
      m, n, k, a_stride, b_stride, c_stride, batch_count, a_batch_stride, b_batch_stride, c_batch_stride, transpose_a,
      transpose_b, dtype_name(in), dtype_name(out), static_cast<int>(epilogue), mask_stride, reads_c, a_alignment,
      b_alignment, c_alignment, epilogue_alignment);
}

size_t MatmulShapeHash::operator()(const MatmulShape& s) const {
  size_t hash = 0;
  for (const int64_t part : {s.m, s.n, s.k, s.a_stride, s.b_stride, s.c_stride, static_cast<int64_t>(s.epilogue),
                             int64_t{s.transpose_a}, int64_t{s.transpose_b}, static_cast<int64_t>(s.out),
                             int64_t{s.reads_c}, int64_t{s.c_alignment}, int64_t{s.epilogue_alignment}})
    hash = hash * 1'000'003 + static_cast<size_t>(part);
  return hash;
}

MatmulShape shape_of(const MatmulArguments& m) {
  MatmulShape s;
  s.m = m.transpose_a ? m.a.columns : m.a.rows;
  s.k = m.transpose_a ? m.a.rows : m.a.columns;
  s.n = m.transpose_b ? m.b.rows : m.b.columns;
  CBTM_ASSERT((m.transpose_b ? m.b.columns : m.b.rows) == s.k, "the inner sizes of a product agree");
  CBTM_ASSERT(m.c.rows == s.m && m.c.columns == s.n, "the outer sizes of a product agree");
  CBTM_ASSERT(m.a.dtype == m.b.dtype && (m.c.dtype == m.a.dtype || m.c.dtype == DType::f32),
              "a product has one input type, and that or float32 as output type");
  CBTM_ASSERT(s.k > 0, "a product sums something");
  // A single row's stride says nothing; cuBLASLt wants at least the columns.
  s.a_stride = std::max(m.a.row_stride, m.a.columns);
  s.b_stride = std::max(m.b.row_stride, m.b.columns);
  s.c_stride = std::max(m.c.row_stride, m.c.columns);
  s.batch_count = m.batch_count;
  if (m.batch_count > 1) {
    s.a_batch_stride = m.a_batch_stride;
    s.b_batch_stride = m.b_batch_stride;
    s.c_batch_stride = m.c_batch_stride;
  }
  s.transpose_a = m.transpose_a;
  s.transpose_b = m.transpose_b;
  s.in = m.a.dtype;
  s.out = m.c.dtype;
  s.epilogue = epilogue_of(m);
  CBTM_ASSERT(s.epilogue == CUBLASLT_EPILOGUE_DEFAULT || m.batch_count == 1, "epilogues come without batches");
  CBTM_ASSERT(!m.bias || (m.bias.dtype == m.c.dtype && m.bias.columns == s.n), "a bias has c's type and columns");
  CBTM_ASSERT(!m.a_sums || (m.a_sums.dtype == m.c.dtype && m.a_sums.columns == s.m), "sums have c's type, a row each");
  if (m.relu_mask) s.mask_stride = 8 * m.relu_mask.row_stride;
  if (m.relu_derivative_mask) s.mask_stride = 8 * m.relu_derivative_mask.row_stride;
  s.reads_c = m.beta != 0;
  s.a_alignment = alignment_of(m.a.data);
  s.b_alignment = alignment_of(m.b.data);
  s.c_alignment = alignment_of(m.c.data);
  s.epilogue_alignment = std::min(alignment_of(epilogue_vector(m)), alignment_of(epilogue_mask(m)));
  return s;
}

}  // namespace cbtm::cuda
