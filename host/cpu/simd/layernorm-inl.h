// Dropout and layer norms: a part of kernels.cpp, compiled once per instruction set with it.

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
