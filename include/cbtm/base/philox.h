#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define CBTM_HOST_DEVICE __host__ __device__
#else
#define CBTM_HOST_DEVICE
#endif

namespace cbtm {

/// Rounds of Philox4x32 by default, and those that dropout takes: with 7 it still passes BigCrush (Salmon et al., table
/// 2).
constexpr int kPhiloxRounds = 10;
constexpr int kPhiloxDropoutRounds = 7;

/// Philox4x32 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): four random words for a counter
/// and a key, with no state. Words are least significant first (docs/numerics.md, 'Random numbers').
struct PhiloxCounter {
  uint32_t word[4];
};

template <int kRounds = kPhiloxRounds>
CBTM_HOST_DEVICE inline PhiloxCounter philox(PhiloxCounter counter, uint64_t key) {
  uint32_t key0 = static_cast<uint32_t>(key);
  uint32_t key1 = static_cast<uint32_t>(key >> 32);
#ifdef __CUDA_ARCH__
#pragma unroll
#endif
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(0xD2511F53u) * counter.word[0];
    const uint64_t product1 = static_cast<uint64_t>(0xCD9E8D57u) * counter.word[2];
    counter = PhiloxCounter{
        {static_cast<uint32_t>(product1 >> 32) ^ counter.word[1] ^ key0, static_cast<uint32_t>(product1),
         static_cast<uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1, static_cast<uint32_t>(product0)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

/// Uniform in [0, 1), 24 bits.
CBTM_HOST_DEVICE inline float uniform_from_bits(uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }

/// A stream of random numbers for host code (initialisation, shuffling, sampling). The draw `index` of `stream` under
/// `seed` is the same on every machine. To go on later, only the index has to be saved.
class PhiloxStream {
 public:
  PhiloxStream(uint64_t seed, uint64_t stream, uint64_t next_index = 0)
      : seed_(seed), stream_(stream), index_(next_index) {}

  uint32_t next_bits() {
    if (const uint64_t block = index_ / 4; block != block_ || !filled_) {
      words_ = philox(PhiloxCounter{{static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32),
                                     static_cast<uint32_t>(stream_), static_cast<uint32_t>(stream_ >> 32)}},
                      seed_);
      block_ = block;
      filled_ = true;
    }
    return words_.word[index_++ % 4];
  }
  uint64_t next_bits64() {
    const uint64_t low = next_bits();
    return low | (static_cast<uint64_t>(next_bits()) << 32);
  }
  /// Uniform in [0, 1), 53 bits.
  double next_uniform() { return static_cast<double>(next_bits64() >> 11) * 0x1p-53; }
  /// Uniform in [0, bound), by a 64-bit multiplication and shift; the bias is negligible. bound > 0.
  uint64_t next_below(uint64_t bound) {
    return static_cast<uint64_t>((static_cast<unsigned __int128>(next_bits64()) * bound) >> 64);
  }
  /// Standard normal, by Box-Muller; takes two uniform numbers.
  double next_normal();

  uint64_t index() const { return index_; }

 private:
  uint64_t seed_;
  uint64_t stream_;
  uint64_t index_;
  uint64_t block_ = 0;
  bool filled_ = false;
  PhiloxCounter words_{};
};

}  // namespace cbtm
