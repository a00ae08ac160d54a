// Activations as bf16: a part of the files that multiply by AVX-512 BF16 and AMX.

constexpr int64_t kLanes = 32;  // bf16 numbers of a vector

HWY_INLINE __mmask32 first_lanes(int64_t count) {
  return count >= kLanes ? ~__mmask32{0} : static_cast<__mmask32>((uint32_t{1} << count) - 1);
}

/// Up to 32 numbers, rounded to nearest, ties to even; zero beyond `count`.
HWY_INLINE __m512i rounded(const float* x, int64_t count) {
  const __mmask32 present = first_lanes(count);
  const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(present), x);
  const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(present >> 16), x + 16);
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}
