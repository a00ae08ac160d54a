#pragma once

#include <cstdint>

#include "cbtm/base/half_types.h"

namespace cbtm::cpu {

/// A dropout (see cbtm/device/dropout.h), without the group.
struct DropoutDraw {
  uint64_t seed;
  uint32_t step;
  uint32_t site;
  uint32_t limit;  ///< bytes below it are dropped
  float kept;      ///< multiplier of what is kept
};

/// Keys that attention_decisions writes at a time: rows of decisions have room for a multiple of it.
inline constexpr int64_t kDecisionKeys = 64;

/// C[m, n] (+)= A B for matrices that fit the cache: A(i, l) lies at a[i * a_row_stride + l * a_column_stride], B and C
/// are row-major.
struct SmallProduct {
  int64_t m, n, k;
  const float* a;
  int64_t a_row_stride, a_column_stride;
  const float* b;
  int64_t b_stride;
  float* c;
  int64_t c_stride;
  bool accumulate;
};

/// A block of B and some rows of A, as block_product packs them.
inline constexpr int64_t kProductDepth = 256;
inline constexpr int64_t kProductColumns = 480;
inline constexpr int64_t kProductPackedRows = 64;
inline constexpr int64_t kProductScratch = kProductDepth * (kProductColumns + kProductPackedRows);

/// C[m, n] (+)= A B of any size. A(i, l) lies at a[i * a_row_stride + l * a_column_stride], B(l, j) at
/// b[l * b_row_stride + j * b_column_stride] with one of those two strides 1; C is row-major. An element's value
/// depends on k alone, not on how a product is cut into ranges of rows and columns.
struct BlockProduct {
  int64_t m, n, k;
  const float* a;
  int64_t a_row_stride, a_column_stride;
  const float* b;
  int64_t b_row_stride, b_column_stride;
  float* c;
  int64_t c_stride;
  bool accumulate;
  float* scratch;  ///< kProductScratch floats, 64-byte aligned
};

/// One parameter range of an AdamW step; factors as worked out by the caller.
struct AdamWRange {
  float* weights;
  float* gradients;  ///< zeroed
  float* first_moments;
  float* second_moments;
  int64_t count;
  float gradient_factor;  ///< of clipping
  float beta1, beta2;
  float decay_factor;          ///< 1 - learning_rate * weight_decay
  float step_size;             ///< learning_rate / (1 - beta1^t)
  float second_moment_factor;  ///< 1 / sqrt(1 - beta2^t)
  float epsilon;
};

/// Loops over contiguous float32 values, compiled once per instruction set; one table is chosen at start. No function
/// keeps state or starts threads. Pointers need no alignment. A null pointer means "not given" where a comment says so.
struct Kernels {
  const char* name;  ///< "AVX-512", for people

  /// Multipliers, 0 or draw.kept, of a row of `count` columns whose first sixteen are decided by group `first_group`.
  void (*dropout_multipliers)(const DropoutDraw& draw, uint64_t first_group, int64_t count, float* out);
  /// Decisions about attention probabilities (see AttentionShape) of one i % 8 / 2 of a block of 16 queries: bytes of
  /// queries 0, 1, 8 and 9 of it to rows 0, 1, 8 and 9 of `decisions`, in the order of the keys. `first_group` is that
  /// of key 0; `keys` is rounded up to kDecisionKeys.
  void (*attention_decisions)(const DropoutDraw& draw, uint64_t first_group, int64_t keys, uint8_t* decisions,
                              int64_t stride);
  /// Multipliers of `count` decisions.
  void (*decided_multipliers)(const DropoutDraw& draw, const uint8_t* decisions, int64_t count, float* out);

  /// sum = residual + branch * multipliers (branch, multipliers may be null); normalized = layernorm of it. `sum`,
  /// `normalized`, gamma, beta may be null. Two passes over the row: mean, then variance.
  void (*layernorm_forward)(const float* residual, const float* branch, const float* multipliers, const float* gamma,
                            const float* beta, float epsilon, int64_t width, float* sum, float* normalized, float* mean,
                            float* rstd);
  /// sum_gradient = sum_gradient_in (may be null) + layernorm backward of normalized_gradient; gamma_gradient and
  /// beta_gradient (may be null) accumulate.
  void (*layernorm_backward)(const float* normalized_gradient, const float* sum_gradient_in, const float* sum,
                             float mean, float rstd, const float* gamma, int64_t width, float* sum_gradient,
                             float* gamma_gradient, float* beta_gradient);

  void (*multiply)(const float* a, const float* b, int64_t count, float* out);
  void (*add)(const float* x, int64_t count, float* y);                       ///< y += x
  void (*add_scaled)(float factor, const float* x, int64_t count, float* y);  ///< y += factor x
  void (*scale)(float factor, const float* x, int64_t count, float* y);       ///< y = factor x
  /// row = row + bias (may be null), then max(0, row) if relu.
  void (*bias_relu)(float* row, const float* bias, bool relu, int64_t count);
  /// gradient = 0 where activation <= 0.
  void (*relu_backward)(float* gradient, const float* activation, int64_t count);

  void (*small_product)(const SmallProduct& product);
  void (*block_product)(const BlockProduct& product);
  float (*row_max)(const float* x, int64_t count);
  /// out (may be x itself, or null) = exp(x - shift); returns the sum.
  float (*exp_sum)(const float* x, float shift, int64_t count, float* out);
  /// out = factor * exp(x - shift).
  void (*exp_scaled)(const float* x, float shift, float factor, int64_t count, float* out);
  /// out += factor * exp(x - shift).
  void (*add_exp_scaled)(const float* x, float shift, float factor, int64_t count, float* out);
  void (*log_in_place)(float* x, int64_t count);
  /// scores := exp(scores - log_sum_exp) = P; score_gradient := P * (score_gradient * multipliers - row_term);
  /// then scores := P * multipliers (multipliers may be null: 1).
  void (*softmax_backward)(float* scores, float* score_gradient, float log_sum_exp, float row_term,
                           const float* multipliers, int64_t count);

  float (*dot)(const float* a, const float* b, int64_t count);
  float (*squared_distance)(const float* a, const float* b, int64_t count);
  double (*square_sum)(const float* x, int64_t count);

  /// out[r * out_stride + o] = Σ input[r * input_stride + i] weight[o * in + i] for r < rows, o in [begin, end). What a
  /// row gets does not depend on the others.
  void (*few_rows_f32)(const float* input, int64_t input_stride, int64_t rows, int64_t in, const float* weight,
                       int64_t begin, int64_t end, float* out, int64_t out_stride);
  void (*few_rows_bf16)(const float* input, int64_t input_stride, int64_t rows, int64_t in, const bf16* weight,
                        int64_t begin, int64_t end, float* out, int64_t out_stride);
  /// int4 weights, kInt4Group inputs a scale (see cbtm/device/linear_operands.h); an output row has `groups`
  /// groups, the last of which may reach beyond `in`.
  void (*few_rows_i4)(const float* input, int64_t input_stride, int64_t rows, int64_t in, const uint8_t* weight,
                      const f16* scales, int64_t begin, int64_t end, float* out, int64_t out_stride);
  void (*widen_bf16)(const bf16* x, int64_t count, float* out);
  void (*widen_i8)(const int8_t* x, int64_t count, float* out);
  /// out[i] = scale of i's group * value i, of one row.
  void (*widen_i4)(const uint8_t* x, const f16* scales, int64_t count, float* out);

  void (*adamw)(const AdamWRange& range);
};

inline constexpr int64_t kFewRows = 8;

/// The best table for this processor; CBTM_SIMD asks for a lower one (choose.cpp has the names).
const Kernels& kernels();

}  // namespace cbtm::cpu
