// Compiled once per instruction set (host/cpu/simd.cmake): CBTM_SIMD_TABLE names the table that this compilation
// defines. Nothing here but loops over plain arrays: inline functions of other headers must not be instantiated in it,
// or the linker could keep the copy that an older processor cannot run.

#include "cpu/simd/kernels.h"

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

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

HWY_INLINE void multiply_words(Words a, Words b, Words& high, Words& low) {
  const hn::RepartitionToWide<decltype(kWords)> wide;
  const auto even = hn::MulEven(a, b);
  const auto odd = hn::MulEven(hn::BitCast(kWords, hn::ShiftRight<32>(hn::BitCast(wide, a))), b);
  high = hn::OddEven(hn::BitCast(kWords, odd), hn::BitCast(kWords, hn::ShiftRight<32>(even)));
  low = hn::OddEven(hn::BitCast(kWords, hn::ShiftLeft<32>(odd)), hn::BitCast(kWords, even));
}

void dropout_multipliers(const DropoutDraw& draw, int64_t first, int64_t count, float* out) {
  // A word is dropped when (word >> 8) * 2^-24 < p, that is when word >> 8 < p * 2^24 rounded up.
  const double scaled = static_cast<double>(draw.probability) * 16777216.0;
  int64_t threshold = static_cast<int64_t>(scaled);
  if (static_cast<double>(threshold) < scaled) ++threshold;
  const auto limit = hn::Set(kIntegers, static_cast<int32_t>(threshold));
  const Floats kept = hn::Set(kFloats, 1.0f / (1.0f - draw.probability));

  float block[4 * kLanes];
  const Words multiplier0 = hn::Set(kWords, 0xD2511F53u);
  const Words multiplier1 = hn::Set(kWords, 0xCD9E8D57u);
  for (int64_t group = first / 4; 4 * group < first + count; group += kLanes) {
    // Element numbers stay below 2^34 * 4; a block of lanes may cross a multiple of 2^32 groups.
    const uint32_t low_start = static_cast<uint32_t>(group);
    Words c0 = hn::Add(hn::Set(kWords, low_start), hn::Iota(kWords, 0));
    const Words high_start = hn::Set(kWords, static_cast<uint32_t>(static_cast<uint64_t>(group) >> 32));
    Words c1 =
        hn::IfThenElse(hn::Lt(c0, hn::Set(kWords, low_start)), hn::Add(high_start, hn::Set(kWords, 1u)), high_start);
    Words c2 = hn::Set(kWords, draw.site);
    Words c3 = hn::Set(kWords, draw.step);
    uint32_t key0 = static_cast<uint32_t>(draw.seed);
    uint32_t key1 = static_cast<uint32_t>(draw.seed >> 32);
    for (int round = 0; round < 10; ++round) {
      Words high0, low0, high1, low1;
      multiply_words(c0, multiplier0, high0, low0);
      multiply_words(c2, multiplier1, high1, low1);
      const Words next0 = hn::Xor(hn::Xor(high1, c1), hn::Set(kWords, key0));
      const Words next2 = hn::Xor(hn::Xor(high0, c3), hn::Set(kWords, key1));
      c0 = next0;
      c1 = low1;
      c2 = next2;
      c3 = low0;
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
    const auto decide = [&](Words word) HWY_ATTR {
      const auto drawn = hn::BitCast(kIntegers, hn::ShiftRight<8>(word));
      return hn::IfThenZeroElse(hn::RebindMask(kFloats, hn::Lt(drawn, limit)), kept);
    };
    const int64_t begin = 4 * group - first;  // may be negative at the start
    const bool whole = begin >= 0 && begin + 4 * kLanes <= count;
    float* target = whole ? out + begin : block;
    hn::StoreInterleaved4(decide(c0), decide(c1), decide(c2), decide(c3), kFloats, target);
    if (!whole)
      for (int64_t lane = 0; lane < 4 * kLanes; ++lane)
        if (begin + lane >= 0 && begin + lane < count) out[begin + lane] = block[lane];
  }
}

void layernorm_forward(const float* residual, const float* branch, const float* multipliers, const float* gamma,
                       const float* beta, float epsilon, int64_t width, float* sum, float* normalized, float* mean,
                       float* rstd) {
  Floats sums = hn::Zero(kFloats);
  for_vectors(width, [&](int64_t c, auto access) HWY_ATTR {
    Floats x = access.load(residual + c);
    if (branch != nullptr) {
      const Floats b = access.load(branch + c);
      x = multipliers != nullptr ? hn::MulAdd(b, access.load(multipliers + c), x) : hn::Add(x, b);
    }
    if (sum != nullptr) access.store(x, sum + c);
    sums = hn::Add(sums, x);
  });
  if (normalized == nullptr) return;
  const float* row = sum != nullptr ? sum : residual;
  const float row_mean = total(sums) / static_cast<float>(width);
  const Floats means = hn::Set(kFloats, row_mean);
  Floats squares = hn::Zero(kFloats);
  for_vectors(width, [&](int64_t c, auto access) HWY_ATTR {
    const Floats centred = access.keep(hn::Sub(access.load(row + c), means));
    squares = hn::MulAdd(centred, centred, squares);
  });
  const float variance = total(squares) / static_cast<float>(width);
  const float row_rstd = 1.0f / __builtin_sqrtf(variance + epsilon);
  const Floats factors = hn::Set(kFloats, row_rstd);
  for_vectors(width, [&](int64_t c, auto access) HWY_ATTR {
    Floats y = hn::Mul(hn::Sub(access.load(row + c), means), factors);
    if (gamma != nullptr) y = hn::Mul(y, access.load(gamma + c));
    if (beta != nullptr) y = hn::Add(y, access.load(beta + c));
    access.store(y, normalized + c);
  });
  *mean = row_mean;
  *rstd = row_rstd;
}

void layernorm_backward(const float* normalized_gradient, const float* sum_gradient_in, const float* sum, float mean,
                        float rstd, const float* gamma, int64_t width, float* sum_gradient, float* gamma_gradient,
                        float* beta_gradient) {
  const Floats means = hn::Set(kFloats, mean);
  const Floats factors = hn::Set(kFloats, rstd);
  Floats gradient_sums = hn::Zero(kFloats);
  Floats product_sums = hn::Zero(kFloats);
  for_vectors(width, [&](int64_t c, auto access) HWY_ATTR {
    const Floats dy = access.load(normalized_gradient + c);
    const Floats unit = access.keep(hn::Mul(hn::Sub(access.load(sum + c), means), factors));
    if (gamma_gradient != nullptr)
      access.store(hn::MulAdd(dy, unit, access.load(gamma_gradient + c)), gamma_gradient + c);
    if (beta_gradient != nullptr) access.store(hn::Add(dy, access.load(beta_gradient + c)), beta_gradient + c);
    const Floats g = gamma != nullptr ? hn::Mul(dy, access.load(gamma + c)) : dy;
    gradient_sums = hn::Add(gradient_sums, g);
    product_sums = hn::MulAdd(g, unit, product_sums);
  });
  const Floats gradient_mean = hn::Set(kFloats, total(gradient_sums) / static_cast<float>(width));
  const Floats product_mean = hn::Set(kFloats, total(product_sums) / static_cast<float>(width));
  for_vectors(width, [&](int64_t c, auto access) HWY_ATTR {
    const Floats dy = access.load(normalized_gradient + c);
    const Floats unit = hn::Mul(hn::Sub(access.load(sum + c), means), factors);
    const Floats g = gamma != nullptr ? hn::Mul(dy, access.load(gamma + c)) : dy;
    Floats dx = hn::Mul(factors, hn::NegMulAdd(unit, product_mean, hn::Sub(g, gradient_mean)));
    if (sum_gradient_in != nullptr) dx = hn::Add(dx, access.load(sum_gradient_in + c));
    access.store(dx, sum_gradient + c);
  });
}

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

HWY_INLINE Floats load_weight(const float* w) { return hn::LoadU(kFloats, w); }
HWY_INLINE Floats load_weight(const bf16* w) {
  const hn::Rebind<uint16_t, decltype(kFloats)> halves;
  const auto bits = hn::PromoteTo(kWords, hn::LoadU(halves, reinterpret_cast<const uint16_t*>(w)));
  return hn::BitCast(kFloats, hn::ShiftLeft<16>(bits));
}
HWY_INLINE Floats load_weight(const int8_t* w) {
  const hn::Rebind<int8_t, decltype(kFloats)> bytes;
  return hn::ConvertTo(kFloats, hn::PromoteTo(kIntegers, hn::LoadU(bytes, w)));
}
HWY_INLINE float weight_value(float w) { return w; }
HWY_INLINE float weight_value(int8_t w) { return static_cast<float>(w); }
HWY_INLINE float weight_value(bf16 w) {
  float value;
  const uint32_t bits = static_cast<uint32_t>(w.bits) << 16;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

template <int kRows, int kOutputs, typename Weight>
HWY_INLINE void few_rows_tile(const float* input, int64_t input_stride, int64_t in, const Weight* weight, int64_t first,
                              float* out, int64_t out_stride) {
  Floats sums[kRows][kOutputs];
  for (int r = 0; r < kRows; ++r)
    for (int o = 0; o < kOutputs; ++o) sums[r][o] = hn::Zero(kFloats);
  int64_t i = 0;
  for (; i + kLanes <= in; i += kLanes) {
    Floats w[kOutputs];
    for (int o = 0; o < kOutputs; ++o) w[o] = load_weight(weight + (first + o) * in + i);
    for (int r = 0; r < kRows; ++r) {
      const Floats x = hn::LoadU(kFloats, input + r * input_stride + i);
      for (int o = 0; o < kOutputs; ++o) sums[r][o] = hn::MulAdd(x, w[o], sums[r][o]);
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int o = 0; o < kOutputs; ++o) {
      float sum = total(sums[r][o]);
      for (int64_t j = i; j < in; ++j) sum += input[r * input_stride + j] * weight_value(weight[(first + o) * in + j]);
      out[r * out_stride + first + o] = sum;
    }
}

template <int kRows, typename Weight>
void few_rows_fixed(const float* input, int64_t input_stride, int64_t in, const Weight* weight, int64_t begin,
                    int64_t end, float* out, int64_t out_stride) {
  constexpr int kOutputs = kRows <= 2 ? 4 : 2;
  int64_t o = begin;
  for (; o + kOutputs <= end; o += kOutputs)
    few_rows_tile<kRows, kOutputs>(input, input_stride, in, weight, o, out, out_stride);
  for (; o < end; ++o) few_rows_tile<kRows, 1>(input, input_stride, in, weight, o, out, out_stride);
}

template <typename Weight>
void few_rows(const float* input, int64_t input_stride, int64_t rows, int64_t in, const Weight* weight, int64_t begin,
              int64_t end, float* out, int64_t out_stride) {
  switch (rows) {
    case 1: return few_rows_fixed<1>(input, input_stride, in, weight, begin, end, out, out_stride);
    case 2: return few_rows_fixed<2>(input, input_stride, in, weight, begin, end, out, out_stride);
    case 3: return few_rows_fixed<3>(input, input_stride, in, weight, begin, end, out, out_stride);
    case 4: return few_rows_fixed<4>(input, input_stride, in, weight, begin, end, out, out_stride);
    case 5: return few_rows_fixed<5>(input, input_stride, in, weight, begin, end, out, out_stride);
    case 6: return few_rows_fixed<6>(input, input_stride, in, weight, begin, end, out, out_stride);
    case 7: return few_rows_fixed<7>(input, input_stride, in, weight, begin, end, out, out_stride);
    case 8: return few_rows_fixed<8>(input, input_stride, in, weight, begin, end, out, out_stride);
    default: return;
  }
}

// int4 weights: groups of 32, 16 bytes each; byte b holds value b + 8 in its low half and value 16 + b in its high
// half.
constexpr int64_t kGroup = 32;
constexpr int64_t kGroupBytes = kGroup / 2;
constexpr int64_t kHalfVectors = kGroupBytes / kLanes;
static_assert(kLanes <= kGroupBytes, "a vector of floats lies within half a group");

HWY_INLINE float scale_value(f16 scale) {
  const uint32_t sign = static_cast<uint32_t>(scale.bits & 0x8000u) << 16;
  const uint32_t exponent = (scale.bits >> 10) & 0x1fu, mantissa = scale.bits & 0x3ffu;
  const uint32_t bits = sign | ((exponent + 112u) << 23) | (mantissa << 13);
  float value;
  __builtin_memcpy(&value, &bits, 4);
  if (exponent != 0) return value;
  value = static_cast<float>(mantissa) * 0x1p-24f;
  return sign != 0 ? -value : value;
}

/// The kLanes values that the low (high) halves of the bytes from `codes` on hold.
struct Int4Values {
  Floats low, high;
  explicit HWY_INLINE Int4Values(const uint8_t* codes) {
    const hn::Rebind<uint8_t, decltype(kFloats)> bytes;
    const hn::Rebind<int8_t, decltype(kFloats)> signed_bytes;
    const auto both = hn::LoadU(bytes, codes);
    const auto zero = hn::Set(signed_bytes, 8);
    const auto low_codes = hn::BitCast(signed_bytes, hn::And(both, hn::Set(bytes, 15)));
    const auto high_codes = hn::BitCast(signed_bytes, hn::ShiftRight<4>(both));
    low = hn::ConvertTo(kFloats, hn::PromoteTo(kIntegers, hn::Sub(low_codes, zero)));
    high = hn::ConvertTo(kFloats, hn::PromoteTo(kIntegers, hn::Sub(high_codes, zero)));
  }
};

template <int kRows, int kOutputs>
HWY_INLINE void few_rows_i4_tile(const float* input, int64_t input_stride, int64_t in, const uint8_t* weight,
                                 const f16* scales, int64_t first, float* out, int64_t out_stride) {
  const int64_t groups = (in + kGroup - 1) / kGroup;
  Floats sums[kRows][kOutputs];
  for (int r = 0; r < kRows; ++r)
    for (int o = 0; o < kOutputs; ++o) sums[r][o] = hn::Zero(kFloats);
  const auto add_group = [&](int64_t group, const float* x, int64_t x_stride) HWY_ATTR {
    for (int o = 0; o < kOutputs; ++o) {
      const uint8_t* codes = weight + ((first + o) * groups + group) * kGroupBytes;
      const Floats scale = hn::Set(kFloats, scale_value(scales[(first + o) * groups + group]));
      Floats group_sums[kRows];
      for (int r = 0; r < kRows; ++r) group_sums[r] = hn::Zero(kFloats);
      for (int64_t v = 0; v < kHalfVectors; ++v) {
        const Int4Values values(codes + v * kLanes);
        for (int r = 0; r < kRows; ++r) {
          const float* place = x + r * x_stride + v * kLanes;
          group_sums[r] = hn::MulAdd(values.low, hn::LoadU(kFloats, place), group_sums[r]);
          group_sums[r] = hn::MulAdd(values.high, hn::LoadU(kFloats, place + kGroupBytes), group_sums[r]);
        }
      }
      for (int r = 0; r < kRows; ++r) sums[r][o] = hn::MulAdd(scale, group_sums[r], sums[r][o]);
    }
  };
  const int64_t whole = in / kGroup;
  for (int64_t group = 0; group < whole; ++group) add_group(group, input + group * kGroup, input_stride);
  if (whole < groups) {  // the values beyond `in` are zero, but the inputs there do not exist
    float rest[kRows][kGroup] = {};
    for (int r = 0; r < kRows; ++r)
      for (int64_t i = whole * kGroup; i < in; ++i) rest[r][i - whole * kGroup] = input[r * input_stride + i];
    add_group(whole, rest[0], kGroup);
  }
  for (int r = 0; r < kRows; ++r)
    for (int o = 0; o < kOutputs; ++o) out[r * out_stride + first + o] = total(sums[r][o]);
}

template <int kRows>
void few_rows_i4_fixed(const float* input, int64_t input_stride, int64_t in, const uint8_t* weight, const f16* scales,
                       int64_t begin, int64_t end, float* out, int64_t out_stride) {
  constexpr int kOutputs = kRows <= 2 ? 4 : 2;
  int64_t o = begin;
  for (; o + kOutputs <= end; o += kOutputs)
    few_rows_i4_tile<kRows, kOutputs>(input, input_stride, in, weight, scales, o, out, out_stride);
  for (; o < end; ++o) few_rows_i4_tile<kRows, 1>(input, input_stride, in, weight, scales, o, out, out_stride);
}

void few_rows_i4(const float* input, int64_t input_stride, int64_t rows, int64_t in, const uint8_t* weight,
                 const f16* scales, int64_t begin, int64_t end, float* out, int64_t out_stride) {
  switch (rows) {
    case 1: return few_rows_i4_fixed<1>(input, input_stride, in, weight, scales, begin, end, out, out_stride);
    case 2: return few_rows_i4_fixed<2>(input, input_stride, in, weight, scales, begin, end, out, out_stride);
    case 3: return few_rows_i4_fixed<3>(input, input_stride, in, weight, scales, begin, end, out, out_stride);
    case 4: return few_rows_i4_fixed<4>(input, input_stride, in, weight, scales, begin, end, out, out_stride);
    case 5: return few_rows_i4_fixed<5>(input, input_stride, in, weight, scales, begin, end, out, out_stride);
    case 6: return few_rows_i4_fixed<6>(input, input_stride, in, weight, scales, begin, end, out, out_stride);
    case 7: return few_rows_i4_fixed<7>(input, input_stride, in, weight, scales, begin, end, out, out_stride);
    case 8: return few_rows_i4_fixed<8>(input, input_stride, in, weight, scales, begin, end, out, out_stride);
    default: return;
  }
}

template <typename Weight>
void widen(const Weight* x, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) hn::StoreU(load_weight(x + i), kFloats, out + i);
  for (; i < count; ++i) out[i] = weight_value(x[i]);
}

void widen_i4(const uint8_t* x, const f16* scales, int64_t count, float* out) {
  for (int64_t group = 0; group * kGroup < count; ++group) {
    const float scale = scale_value(scales[group]);
    const uint8_t* codes = x + group * kGroupBytes;
    float* target = out + group * kGroup;
    const int64_t left = count - group * kGroup;
    if (left >= kGroup) {
      for (int64_t v = 0; v < kHalfVectors; ++v) {
        const Int4Values values(codes + v * kLanes);
        hn::StoreU(hn::Mul(hn::Set(kFloats, scale), values.low), kFloats, target + v * kLanes);
        hn::StoreU(hn::Mul(hn::Set(kFloats, scale), values.high), kFloats, target + kGroupBytes + v * kLanes);
      }
      continue;
    }
    for (int64_t i = 0; i < left; ++i)
      target[i] = scale * static_cast<float>((i < kGroupBytes ? codes[i] & 15 : codes[i - kGroupBytes] >> 4) - 8);
  }
}

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
                                 few_rows<int8_t>,
                                 few_rows_i4,
                                 widen<bf16>,
                                 widen<int8_t>,
                                 widen_i4,
                                 adamw};

}  // namespace cbtm::cpu
HWY_AFTER_NAMESPACE();
