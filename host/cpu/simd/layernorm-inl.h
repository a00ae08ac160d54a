// Layer norms: a part of kernels.cpp, compiled once per instruction set with it.

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
