// Products of a few rows with a matrix of any type of weights, and widening such weights: a part of kernels.cpp,
// compiled once per instruction set with it.

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

/// totals[i] = the sum of sums[i]'s lanes, for i < kCount, a power of two: neighbouring lanes first, then those sums'
/// neighbours, and so on. All at once, for each of kCount sums alone would take as many steps.
template <int kCount>
HWY_INLINE void add_lanes(Floats (&sums)[kCount], float* totals) {
  int left = kCount;
  for (int64_t lanes = kLanes; lanes > 1; lanes /= 2) {
    if (left == 1) {
      sums[0] = hn::Add(hn::ConcatEven(kFloats, sums[0], sums[0]), hn::ConcatOdd(kFloats, sums[0], sums[0]));
      continue;
    }
    left /= 2;
    for (int i = 0; i < left; ++i)
      sums[i] = hn::Add(hn::ConcatEven(kFloats, sums[2 * i + 1], sums[2 * i]),
                        hn::ConcatOdd(kFloats, sums[2 * i + 1], sums[2 * i]));
  }
  constexpr int kVectors = kCount > kLanes ? kCount / static_cast<int>(kLanes) : 1;
  HWY_ALIGN float places[kVectors * kLanes];
  for (int i = 0; i < kVectors; ++i) hn::Store(sums[i], kFloats, places + i * kLanes);
  for (int i = 0; i < kCount; ++i) totals[i] = places[i];
}

/// The least power of two that is not below.
constexpr int power_of_two(int count) {
  int power = 1;
  while (power < count) power *= 2;
  return power;
}

/// totals[r][o] = the sum of sums[r][o]'s lanes (add_lanes).
template <int kRows, int kOutputs>
HWY_INLINE void add_lanes_of_tile(const Floats (&sums)[kRows][kOutputs], float (&totals)[kRows][kOutputs]) {
  constexpr int kCount = power_of_two(kRows * kOutputs);
  Floats padded[kCount];
  for (int i = 0; i < kCount; ++i)
    padded[i] = i < kRows * kOutputs ? sums[i / kOutputs][i % kOutputs] : hn::Zero(kFloats);
  float all[kCount];
  add_lanes(padded, all);
  for (int i = 0; i < kRows * kOutputs; ++i) totals[i / kOutputs][i % kOutputs] = all[i];
}

/// Rows and outputs of a tile: what the registers hold of sums. Weights that must be widened are widened for eight
/// rows.
constexpr int kTileRowsF32 = 4, kTileRowsNarrow = 8;
constexpr int tile_outputs(int rows, bool narrow) { return rows <= 2 || (!narrow && HWY_TARGET <= HWY_AVX3) ? 4 : 2; }

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
  float totals[kRows][kOutputs];
  add_lanes_of_tile(sums, totals);
  for (int r = 0; r < kRows; ++r)
    for (int o = 0; o < kOutputs; ++o) {
      float sum = totals[r][o];
      for (int64_t j = i; j < in; ++j) sum += input[r * input_stride + j] * weight_value(weight[(first + o) * in + j]);
      out[r * out_stride + first + o] = sum;
    }
}

template <int kRows, typename Weight>
void few_rows_fixed(const float* input, int64_t input_stride, int64_t in, const Weight* weight, int64_t begin,
                    int64_t end, float* out, int64_t out_stride) {
  constexpr int kOutputs = tile_outputs(kRows, sizeof(Weight) < sizeof(float));
  int64_t o = begin;
  for (; o + kOutputs <= end; o += kOutputs)
    few_rows_tile<kRows, kOutputs>(input, input_stride, in, weight, o, out, out_stride);
  for (; o < end; ++o) few_rows_tile<kRows, 1>(input, input_stride, in, weight, o, out, out_stride);
}

/// Calls part(rows of a tile, first row, first output, end of the outputs) for all rows and outputs: blocks of outputs
/// whose weights, `row_bytes` each, stay in the second cache for all rows; within them `tile_rows` rows at a time.
template <typename Part>
HWY_INLINE void few_rows_blocks(int64_t rows, int64_t tile_rows, int64_t row_bytes, int64_t begin, int64_t end,
                                const Part& part) {
  constexpr int64_t kBlockBytes = 256 << 10;
  constexpr int64_t kGrain = 4;  // outputs of the largest tile
  int64_t block = rows <= tile_rows ? end - begin : kBlockBytes / row_bytes / kGrain * kGrain;
  if (block < kGrain) block = kGrain;
  for (int64_t first = begin; first < end; first += block) {
    const int64_t last = end - first < block ? end : first + block;
    for (int64_t row = 0; row < rows; row += tile_rows)
      part(rows - row < tile_rows ? rows - row : tile_rows, row, first, last);
  }
}

template <typename Weight>
void few_rows_of_tile(int64_t rows, const float* x, int64_t x_stride, int64_t in, const Weight* weight, int64_t begin,
                      int64_t end, float* y, int64_t y_stride) {
  switch (rows) {
    case 1: return few_rows_fixed<1>(x, x_stride, in, weight, begin, end, y, y_stride);
    case 2: return few_rows_fixed<2>(x, x_stride, in, weight, begin, end, y, y_stride);
    case 3: return few_rows_fixed<3>(x, x_stride, in, weight, begin, end, y, y_stride);
    case 4: return few_rows_fixed<4>(x, x_stride, in, weight, begin, end, y, y_stride);
    default: break;
  }
  if constexpr (sizeof(Weight) < sizeof(float)) {
    switch (rows) {
      case 5: return few_rows_fixed<5>(x, x_stride, in, weight, begin, end, y, y_stride);
      case 6: return few_rows_fixed<6>(x, x_stride, in, weight, begin, end, y, y_stride);
      case 7: return few_rows_fixed<7>(x, x_stride, in, weight, begin, end, y, y_stride);
      default: return few_rows_fixed<8>(x, x_stride, in, weight, begin, end, y, y_stride);
    }
  }
}

template <typename Weight>
void few_rows(const float* input, int64_t input_stride, int64_t rows, int64_t in, const Weight* weight, int64_t begin,
              int64_t end, float* out, int64_t out_stride) {
  constexpr int kTileRows = sizeof(Weight) < sizeof(float) ? kTileRowsNarrow : kTileRowsF32;
  few_rows_blocks(rows, kTileRows, in * static_cast<int64_t>(sizeof(Weight)), begin, end,
                  [&](int64_t count, int64_t row, int64_t first, int64_t last) HWY_ATTR {
                    few_rows_of_tile(count, input + row * input_stride, input_stride, in, weight, first, last,
                                     out + row * out_stride, out_stride);
                  });
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
  float totals[kRows][kOutputs];
  add_lanes_of_tile(sums, totals);
  for (int r = 0; r < kRows; ++r)
    for (int o = 0; o < kOutputs; ++o) out[r * out_stride + first + o] = totals[r][o];
}

template <int kRows>
void few_rows_i4_fixed(const float* input, int64_t input_stride, int64_t in, const uint8_t* weight, const f16* scales,
                       int64_t begin, int64_t end, float* out, int64_t out_stride) {
  constexpr int kOutputs = kRows <= 4 ? 4 : 2;
  int64_t o = begin;
  for (; o + kOutputs <= end; o += kOutputs)
    few_rows_i4_tile<kRows, kOutputs>(input, input_stride, in, weight, scales, o, out, out_stride);
  for (; o < end; ++o) few_rows_i4_tile<kRows, 1>(input, input_stride, in, weight, scales, o, out, out_stride);
}

void few_rows_i4(const float* input, int64_t input_stride, int64_t rows, int64_t in, const uint8_t* weight,
                 const f16* scales, int64_t begin, int64_t end, float* out, int64_t out_stride) {
  const int64_t row_bytes = (in + kGroup - 1) / kGroup * (kGroupBytes + 2);
  few_rows_blocks(rows, kTileRowsNarrow, row_bytes, begin, end,
                  [&](int64_t count, int64_t row, int64_t first, int64_t last) HWY_ATTR {
                    const float* x = input + row * input_stride;
                    float* y = out + row * out_stride;
                    const int64_t s = input_stride, t = out_stride;
                    switch (count) {
                      case 1: return few_rows_i4_fixed<1>(x, s, in, weight, scales, first, last, y, t);
                      case 2: return few_rows_i4_fixed<2>(x, s, in, weight, scales, first, last, y, t);
                      case 3: return few_rows_i4_fixed<3>(x, s, in, weight, scales, first, last, y, t);
                      case 4: return few_rows_i4_fixed<4>(x, s, in, weight, scales, first, last, y, t);
                      case 5: return few_rows_i4_fixed<5>(x, s, in, weight, scales, first, last, y, t);
                      case 6: return few_rows_i4_fixed<6>(x, s, in, weight, scales, first, last, y, t);
                      case 7: return few_rows_i4_fixed<7>(x, s, in, weight, scales, first, last, y, t);
                      default: return few_rows_i4_fixed<8>(x, s, in, weight, scales, first, last, y, t);
                    }
                  });
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
