// Rows of activations as int8, for products with int8 weights: a part of the files *_products.cpp, compiled once per
// instruction set with each. docs/numerics.md, 'Activations of int8 weights', says the same in words.
//
// A row is cut into chunks of 1024 columns. Columns c of a chunk with the same c / 4 mod 16 make a group: those that
// one 32-bit lane of a vector of 64 bytes meets. A chunk has a float32 scale, its largest magnitude / (127 * 2^7), and
// a group has a shift of 0 to 7, the least with which its values fit:
//
//   x[c] ~ scale * 2^shift * q[c],   -127 <= q[c] <= 127, to nearest
//
// So an outlier costs only its own group precision, and a kernel shifts lanes once per chunk. Sums over a chunk are
// exact: 1024 * 127 * 2^7 * 128 < 2^31. Chunks are added in float32, in order. Every kernel has the same bits.

constexpr int64_t kChunk = 1024;  // columns
constexpr int64_t kStep = 64;     // columns of a vector of 64 bytes
constexpr int64_t kGroups = 16;   // of a chunk
constexpr int kShiftMax = 7;
constexpr uint32_t kInfinity = 0x7f800000u;

HWY_INLINE int64_t chunks_of(int64_t in) { return (in + kChunk - 1) / kChunk; }
HWY_INLINE int64_t chunk_columns(int64_t in, int64_t chunk) {
  return in - chunk * kChunk < kChunk ? in - chunk * kChunk : kChunk;
}
HWY_INLINE int64_t padded(int64_t size) { return (size + kStep - 1) / kStep * kStep; }

HWY_INLINE float float_of_bits(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

/// Calls visit(values, first column) for steps of 64 columns, the last one with zeros where the row has ended.
template <typename Visit>
HWY_INLINE void for_steps(const float* x, int64_t count, const Visit& visit) {
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep) visit(x + i, i);
  if (i == count) return;
  HWY_ALIGN float rest[kStep] = {};
  for (int64_t j = i; j < count; ++j) rest[j - i] = x[j];
  visit(rest, i);
}

/// Writes padded(count) values, kGroups shifts and the scale of a chunk. A chunk with a value that is not finite has
/// scale NaN; one of magnitudes below 2^-100 has scale 0.
HWY_INLINE void quantise_chunk(const float* x, int64_t count, int8_t* values, int32_t* shifts, float* scale) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::ScalableTag<float> floats;
  const hn::RebindToUnsigned<decltype(floats)> words;
  const hn::Rebind<int8_t, decltype(floats)> bytes;
  constexpr int64_t kLanes = HWY_LANES(float);

  // Magnitudes are compared as integers: the same order, with infinities and NaN above all numbers.
  HWY_ALIGN uint32_t largest[kStep] = {};
  for_steps(x, count, [&](const float* step, int64_t) HWY_ATTR {
    for (int64_t v = 0; v < kStep; v += kLanes) {
      const auto size = hn::And(hn::BitCast(words, hn::LoadU(floats, step + v)), hn::Set(words, 0x7fffffffu));
      hn::Store(hn::Max(size, hn::Load(words, largest + v)), words, largest + v);
    }
  });
  uint32_t of_groups[kGroups], of_chunk = 0;
  for (int64_t g = 0; g < kGroups; ++g) {
    uint32_t of_group = 0;
    for (int64_t i = 0; i < 4; ++i) of_group = largest[g * 4 + i] > of_group ? largest[g * 4 + i] : of_group;
    of_groups[g] = of_group;
    of_chunk = of_group > of_chunk ? of_group : of_chunk;
  }
  const float magnitude = float_of_bits(of_chunk);
  const bool usable = of_chunk < kInfinity && magnitude >= 0x1p-100f;
  const float inverse = usable ? 127 * 128 / magnitude : 0;
  *scale = usable ? magnitude / (127 * 128) : of_chunk < kInfinity ? 0.0f : float_of_bits(0x7fc00000u);
  HWY_ALIGN float inverses[kStep];
  for (int64_t g = 0; g < kGroups; ++g) {
    const float size = usable ? float_of_bits(of_groups[g]) * inverse : 0;
    int shift = 0;
    while (shift < kShiftMax && size > static_cast<float>(127 << shift)) ++shift;
    shifts[g] = shift;
    for (int64_t i = 0; i < 4; ++i) inverses[g * 4 + i] = inverse / static_cast<float>(1 << shift);
  }
  if (!usable) {
    __builtin_memset(values, 0, static_cast<size_t>(padded(count)));
    return;
  }
  for_steps(x, count, [&](const float* step, int64_t first) HWY_ATTR {
    for (int64_t v = 0; v < kStep; v += kLanes) {
      const auto codes = hn::NearestInt(hn::Mul(hn::LoadU(floats, step + v), hn::Load(floats, inverses + v)));
      hn::StoreU(hn::DemoteTo(bytes, codes), bytes, values + first + v);
    }
  });
}

/// y[j] += scale * totals[j].
template <int kCount>
HWY_INLINE void add_chunk(const int32_t* totals, float scale, float* y) {
  for (int j = 0; j < kCount; ++j) y[j] += static_cast<float>(totals[j]) * scale;
}

/// Outputs that kernels work out at a time for a few rows: their weights of a chunk stay in the first cache.
constexpr int64_t kBlock = 32;

/// Asks for the cache lines of a row's outputs, of which there is one in each of many pages, before they are written.
HWY_INLINE void prefetch_outputs(const float* out, int64_t count) {
  for (int64_t o = 0; o < count; o += 16) __builtin_prefetch(out + o, 1);
  __builtin_prefetch(out + count - 1, 1);
}
