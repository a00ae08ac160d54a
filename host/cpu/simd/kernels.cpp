// Compiled once per instruction set (host/cpu/simd.cmake): CBTM_SIMD_TABLE names the table that this compilation
// defines. Nothing here but loops over plain arrays: inline functions of other headers must not be instantiated in it,
// or the linker could keep the copy that an older processor cannot run.

#include "cpu/simd/kernels.h"

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include "cbtm/base/philox.h"

HWY_BEFORE_NAMESPACE();
namespace cbtm::cpu {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

const hn::ScalableTag<float> kFloats;
using Floats = hn::Vec<decltype(kFloats)>;
const hn::RebindToUnsigned<decltype(kFloats)> kWords;
const hn::RebindToSigned<decltype(kFloats)> kIntegers;
using Words = hn::Vec<decltype(kWords)>;
constexpr int64_t kLanes = HWY_LANES(float);

/// Calls body(place, load, store) over whole vectors, then once for the tail with masked access.
struct WholeAccess {
  HWY_INLINE Floats load(const float* x) const { return hn::LoadU(kFloats, x); }
  HWY_INLINE void store(Floats v, float* x) const { hn::StoreU(v, kFloats, x); }
  HWY_INLINE Floats keep(Floats v) const { return v; }
};
struct TailAccess {
  int64_t count;
  hn::Mask<decltype(kFloats)> mask;
  explicit HWY_INLINE TailAccess(int64_t lanes) : count(lanes), mask(hn::FirstN(kFloats, static_cast<size_t>(lanes))) {}
#if HWY_TARGET <= HWY_AVX2 || !HWY_ARCH_X86
  HWY_INLINE Floats load(const float* x) const { return hn::MaskedLoad(mask, kFloats, x); }
  HWY_INLINE void store(Floats v, float* x) const { hn::BlendedStore(v, mask, kFloats, x); }
#else  // no masked access: Highway would touch whole vectors, beyond the end of the array
  HWY_INLINE Floats load(const float* x) const {
    alignas(16) float block[kLanes] = {};
    for (int64_t lane = 0; lane < count; ++lane) block[lane] = x[lane];
    return hn::Load(kFloats, block);
  }
  HWY_INLINE void store(Floats v, float* x) const {
    alignas(16) float block[kLanes];
    hn::Store(v, kFloats, block);
    for (int64_t lane = 0; lane < count; ++lane) x[lane] = block[lane];
  }
#endif
  /// Zero in the lanes that do not exist.
  HWY_INLINE Floats keep(Floats v) const { return hn::IfThenElseZero(mask, v); }
};

template <typename Body>
HWY_INLINE void for_vectors(int64_t count, const Body& body) {
  int64_t place = 0;
  for (; place + kLanes <= count; place += kLanes) body(place, WholeAccess{});
  if (place < count) body(place, TailAccess(count - place));
}

HWY_INLINE float total(Floats v) { return hn::GetLane(hn::SumOfLanes(kFloats, v)); }

#include "cpu/simd/product-inl.h"

/// exp(x), relative error below 2e-7; 0 below -87.3, +inf above 88.7 (NaN stays NaN).
HWY_INLINE Floats fast_exp(Floats x) {
  const Floats low = hn::Set(kFloats, -87.33f);
  const Floats high = hn::Set(kFloats, 88.72f);
  const Floats clamped = hn::Min(hn::Max(x, low), high);
  const Floats rounded = hn::Round(hn::Mul(clamped, hn::Set(kFloats, 1.44269504088896341f)));
  Floats rest = hn::NegMulAdd(rounded, hn::Set(kFloats, 0.693359375f), clamped);
  rest = hn::NegMulAdd(rounded, hn::Set(kFloats, -2.12194440e-4f), rest);
  Floats p = hn::Set(kFloats, 1.9875691500e-4f);
  p = hn::MulAdd(p, rest, hn::Set(kFloats, 1.3981999507e-3f));
  p = hn::MulAdd(p, rest, hn::Set(kFloats, 8.3334519073e-3f));
  p = hn::MulAdd(p, rest, hn::Set(kFloats, 4.1665795894e-2f));
  p = hn::MulAdd(p, rest, hn::Set(kFloats, 1.6666665459e-1f));
  p = hn::MulAdd(p, rest, hn::Set(kFloats, 5.0000001201e-1f));
  p = hn::Add(hn::MulAdd(p, hn::Mul(rest, rest), rest), hn::Set(kFloats, 1.0f));
  // 2^n in two halves, so that n = 128 does not overflow the exponent field.
  const auto n = hn::ConvertTo(kIntegers, rounded);
  const auto half = hn::ShiftRight<1>(n);
  const auto bias = hn::Set(kIntegers, 127);
  const Floats first = hn::BitCast(kFloats, hn::ShiftLeft<23>(hn::Add(half, bias)));
  const Floats second = hn::BitCast(kFloats, hn::ShiftLeft<23>(hn::Add(hn::Sub(n, half), bias)));
  p = hn::Mul(hn::Mul(p, first), second);
  p = hn::IfThenZeroElse(hn::Lt(x, low), p);
  p = hn::IfThenElse(hn::Gt(x, high), hn::Inf(kFloats), p);
  return hn::IfThenElse(hn::IsNaN(x), x, p);
}

#include "cpu/simd/dropout-inl.h"
#include "cpu/simd/layernorm-inl.h"

void multiply(const float* a, const float* b, int64_t count, float* out) {
  for_vectors(count, [&](int64_t i, auto access)
                         HWY_ATTR { access.store(hn::Mul(access.load(a + i), access.load(b + i)), out + i); });
}
void add(const float* x, int64_t count, float* y) {
  for_vectors(count, [&](int64_t i, auto access)
                         HWY_ATTR { access.store(hn::Add(access.load(x + i), access.load(y + i)), y + i); });
}
void add_scaled(float factor, const float* x, int64_t count, float* y) {
  const Floats factors = hn::Set(kFloats, factor);
  for_vectors(count, [&](int64_t i, auto access) HWY_ATTR {
    access.store(hn::MulAdd(factors, access.load(x + i), access.load(y + i)), y + i);
  });
}
void scale(float factor, const float* x, int64_t count, float* y) {
  const Floats factors = hn::Set(kFloats, factor);
  for_vectors(count,
              [&](int64_t i, auto access) HWY_ATTR { access.store(hn::Mul(factors, access.load(x + i)), y + i); });
}
void bias_relu(float* row, const float* bias, bool relu, int64_t count) {
  for_vectors(count, [&](int64_t i, auto access) HWY_ATTR {
    Floats x = access.load(row + i);
    if (bias != nullptr) x = hn::Add(x, access.load(bias + i));
    // Not Max: that would turn a NaN into 0 and hide it.
    if (relu) x = hn::IfThenZeroElse(hn::Lt(x, hn::Zero(kFloats)), x);
    access.store(x, row + i);
  });
}
void relu_backward(float* gradient, const float* activation, int64_t count) {
  for_vectors(count, [&](int64_t i, auto access) HWY_ATTR {
    const auto active = hn::Gt(access.load(activation + i), hn::Zero(kFloats));
    access.store(hn::IfThenElseZero(active, access.load(gradient + i)), gradient + i);
  });
}

float row_max(const float* x, int64_t count) {
  float best = x[0];
  int64_t place = 0;
  if (count >= kLanes) {
    Floats highest = hn::LoadU(kFloats, x);
    for (place = kLanes; place + kLanes <= count; place += kLanes)
      highest = hn::Max(highest, hn::LoadU(kFloats, x + place));
    best = hn::GetLane(hn::MaxOfLanes(kFloats, highest));
  }
  for (; place < count; ++place) best = x[place] > best ? x[place] : best;
  return best;
}

float exp_sum(const float* x, float shift, int64_t count, float* out) {
  const Floats shifts = hn::Set(kFloats, shift);
  Floats sums = hn::Zero(kFloats);
  for_vectors(count, [&](int64_t i, auto access) HWY_ATTR {
    const Floats e = access.keep(fast_exp(hn::Sub(access.load(x + i), shifts)));
    if (out != nullptr) access.store(e, out + i);
    sums = hn::Add(sums, e);
  });
  return total(sums);
}
void exp_scaled(const float* x, float shift, float factor, int64_t count, float* out) {
  const Floats shifts = hn::Set(kFloats, shift);
  const Floats factors = hn::Set(kFloats, factor);
  for_vectors(count, [&](int64_t i, auto access) HWY_ATTR {
    access.store(hn::Mul(factors, fast_exp(hn::Sub(access.load(x + i), shifts))), out + i);
  });
}
void add_exp_scaled(const float* x, float shift, float factor, int64_t count, float* out) {
  const Floats shifts = hn::Set(kFloats, shift);
  const Floats factors = hn::Set(kFloats, factor);
  for_vectors(count, [&](int64_t i, auto access) HWY_ATTR {
    access.store(hn::MulAdd(factors, fast_exp(hn::Sub(access.load(x + i), shifts)), access.load(out + i)), out + i);
  });
}
void log_in_place(float* x, int64_t count) {
  for_vectors(count, [&](int64_t i, auto access) HWY_ATTR {
    const Floats value = access.load(x + i);
    const Floats logarithm = hn::CallLog(kFloats, value);
    // Probability 0 is log -inf, which the polynomial does not give.
    access.store(hn::IfThenElse(hn::Gt(value, hn::Zero(kFloats)), logarithm, hn::Neg(hn::Inf(kFloats))), x + i);
  });
}
void softmax_backward(float* scores, float* score_gradient, float log_sum_exp, float row_term, const float* multipliers,
                      int64_t count) {
  const Floats shifts = hn::Set(kFloats, log_sum_exp);
  const Floats terms = hn::Set(kFloats, row_term);
  for_vectors(count, [&](int64_t i, auto access) HWY_ATTR {
    const Floats p = fast_exp(hn::Sub(access.load(scores + i), shifts));
    const Floats dp = access.load(score_gradient + i);
    if (multipliers != nullptr) {
      const Floats kept = access.load(multipliers + i);
      access.store(hn::Mul(p, hn::MulSub(dp, kept, terms)), score_gradient + i);
      access.store(hn::Mul(p, kept), scores + i);
    } else {
      access.store(hn::Mul(p, hn::Sub(dp, terms)), score_gradient + i);
      access.store(p, scores + i);
    }
  });
}

float dot(const float* a, const float* b, int64_t count) {
  Floats sums0 = hn::Zero(kFloats);
  Floats sums1 = hn::Zero(kFloats);
  int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    sums0 = hn::MulAdd(hn::LoadU(kFloats, a + i), hn::LoadU(kFloats, b + i), sums0);
    sums1 = hn::MulAdd(hn::LoadU(kFloats, a + i + kLanes), hn::LoadU(kFloats, b + i + kLanes), sums1);
  }
  for_vectors(count - i, [&](int64_t j, auto access)
                             HWY_ATTR { sums0 = hn::MulAdd(access.load(a + i + j), access.load(b + i + j), sums0); });
  return total(hn::Add(sums0, sums1));
}
float squared_distance(const float* a, const float* b, int64_t count) {
  Floats sums = hn::Zero(kFloats);
  for_vectors(count, [&](int64_t i, auto access) HWY_ATTR {
    const Floats difference = hn::Sub(access.load(a + i), access.load(b + i));
    sums = hn::MulAdd(difference, difference, sums);
  });
  return total(sums);
}
double square_sum(const float* x, int64_t count) {
  double sum = 0;
  constexpr int64_t kPiece = 4096;  // short enough for float32 partial sums to lose nothing that matters
  for (int64_t begin = 0; begin < count; begin += kPiece) {
    const int64_t length = count - begin < kPiece ? count - begin : kPiece;
    sum += static_cast<double>(dot(x + begin, x + begin, length));
  }
  return sum;
}

#include "cpu/simd/few_rows-inl.h"

void adamw(const AdamWRange& range) {
  const Floats factor = hn::Set(kFloats, range.gradient_factor);
  const Floats beta1 = hn::Set(kFloats, range.beta1);
  const Floats beta2 = hn::Set(kFloats, range.beta2);
  const Floats rest1 = hn::Set(kFloats, 1.0f - range.beta1);
  const Floats rest2 = hn::Set(kFloats, 1.0f - range.beta2);
  const Floats decay = hn::Set(kFloats, range.decay_factor);
  const Floats step_size = hn::Set(kFloats, range.step_size);
  const Floats second_factor = hn::Set(kFloats, range.second_moment_factor);
  const Floats epsilon = hn::Set(kFloats, range.epsilon);
  for_vectors(range.count, [&](int64_t i, auto access) HWY_ATTR {
    const Floats g = hn::Mul(access.load(range.gradients + i), factor);
    const Floats m = hn::MulAdd(beta1, access.load(range.first_moments + i), hn::Mul(rest1, g));
    const Floats v = hn::MulAdd(beta2, access.load(range.second_moments + i), hn::Mul(hn::Mul(rest2, g), g));
    const Floats denominator = hn::MulAdd(hn::Sqrt(v), second_factor, epsilon);
    const Floats w = hn::Mul(access.load(range.weights + i), decay);
    access.store(hn::Sub(w, hn::Div(hn::Mul(step_size, m), denominator)), range.weights + i);
    access.store(m, range.first_moments + i);
    access.store(v, range.second_moments + i);
    access.store(hn::Zero(kFloats), range.gradients + i);
  });
}

}  // namespace

extern const Kernels CBTM_SIMD_TABLE;
const Kernels CBTM_SIMD_TABLE = {CBTM_SIMD_NAME,
                                 dropout_multipliers,
                                 attention_decisions,
                                 decided_multipliers,
                                 layernorm_forward,
                                 layernorm_backward,
                                 multiply,
                                 add,
                                 add_scaled,
                                 scale,
                                 bias_relu,
                                 relu_backward,
                                 small_product,
                                 block_product,
                                 row_max,
                                 exp_sum,
                                 exp_scaled,
                                 add_exp_scaled,
                                 log_in_place,
                                 softmax_backward,
                                 dot,
                                 squared_distance,
                                 square_sum,
                                 few_rows<float>,
                                 few_rows<bf16>,
                                 few_rows_i4,
                                 widen<bf16>,
                                 widen<int8_t>,
                                 widen_i4,
                                 adamw};

}  // namespace cbtm::cpu
HWY_AFTER_NAMESPACE();
