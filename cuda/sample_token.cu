// A token a sequence from its scores: the first maximum, or a draw after temperature, top-k and top-p.

#include "runtime/check.h"
#include "sample_token.h"

namespace cbtm::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kBins = 2048;
constexpr int kListMax = 2048;   ///< scores of one bin that are compared one with another
constexpr double kOne = 0x1p40;  ///< probability of the likeliest token in fixed point; 2^23 tokens' sum fits 64 bits
constexpr int kPartBits = 14;    ///< a weight is added up in parts of so many bits: 2^18 of them fit 32 bits
constexpr int kParts = 3;
constexpr int64_t kVocabularyMax = int64_t{1} << 18;
constexpr float kRangeMax = 64;  ///< below the largest score: where bins end

/// Unsigned numbers in the order of the floats they come from; equal floats (-0 and 0 too) have equal keys.
__device__ uint32_t key_of(float value) {
  const uint32_t bits = __float_as_uint(value + 0.0f);
  return bits ^ (bits >> 31 != 0 ? 0xffffffffu : 0x80000000u);
}
__device__ float score_of(uint32_t key) { return __uint_as_float(key ^ (key >> 31 != 0 ? 0x80000000u : 0xffffffffu)); }

struct Shared {
  union {
    unsigned parts[kParts][kBins];  ///< of the sums of the bins
    struct {
      unsigned long long weights[kListMax];
      uint32_t keys[kListMax];
    } list;
    unsigned long long digits[kBins];
  };
  unsigned long long warp_values[kWarps];
  unsigned warp_counts[kWarps];
  float warp_scores[kWarps], warp_smallest[kWarps];
  int warp_ids[kWarps];
  int chosen;
  unsigned list_length;
  uint32_t key;
  unsigned long long before, total;
  int token;
};

/// Bins of scores, evenly between the largest and the smallest, but not further than kRangeMax down: bin 0 holds the
/// largest. Evenly, for then neighbouring lanes seldom meet in a bin.
struct Bins {
  float largest, scale;
  __device__ int bin_of(float score) const {
    return static_cast<int>(fminf((largest - score) * scale, static_cast<float>(kBins - 1)));
  }
};

/// Calls use(id, score, exists) for all scores, four neighbours a thread; all lanes of a warp call it together.
template <typename Use>
__device__ void for_scores(const float* __restrict__ scores, int vocab_size, const Use& use) {
  for (int base = 0; base < vocab_size; base += 4 * kThreads) {
    const int first = base + 4 * static_cast<int>(threadIdx.x);
    float4 four = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    if (first + 4 <= vocab_size) {
      four = *reinterpret_cast<const float4*>(scores + first);
    } else {
      if (first < vocab_size) four.x = scores[first];
      if (first + 1 < vocab_size) four.y = scores[first + 1];
      if (first + 2 < vocab_size) four.z = scores[first + 2];
    }
    use(first, four.x, first < vocab_size);
    use(first + 1, four.y, first + 1 < vocab_size);
    use(first + 2, four.z, first + 2 < vocab_size);
    use(first + 3, four.w, first + 3 < vocab_size);
  }
}

/// The bin in which the running sum of bin_sum(bin), from bin 0 on, passes `target` (becomes more than it); `before` is
/// the sum of the bins before it. If the sum never does (nothing has a weight): -1 and 0. `total`: of all.
template <typename BinSum>
__device__ int passing_bin(Shared& shared, const BinSum& bin_sum, unsigned long long& total,
                           unsigned long long* target_of_total, double fraction, unsigned long long target,
                           unsigned long long& before) {
  __syncthreads();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const unsigned long long first = bin_sum(2 * static_cast<int>(threadIdx.x));
  const unsigned long long own = first + bin_sum(2 * static_cast<int>(threadIdx.x) + 1);
  unsigned long long until = own;
  for (int offset = 1; offset < 32; offset *= 2) {
    const unsigned long long other = __shfl_up_sync(~0u, until, offset);
    if (lane >= offset) until += other;
  }
  if (lane == 31) shared.warp_values[warp] = until;
  if (threadIdx.x == 0) {
    shared.chosen = -1;
    shared.before = 0;
  }
  __syncthreads();
  total = 0;
  for (int i = 0; i < kWarps; ++i) {
    if (i < warp) until += shared.warp_values[i];
    total += shared.warp_values[i];
  }
  if (target_of_total != nullptr) {
    target = max(1ull, min(total, static_cast<unsigned long long>(ceil(fraction * static_cast<double>(total))))) - 1;
    *target_of_total = target;
  }
  const unsigned long long above = until - own;
  if (target >= above && target < until) {  // in one thread at most
    const bool second = target >= above + first;
    shared.chosen = 2 * static_cast<int>(threadIdx.x) + (second ? 1 : 0);
    shared.before = above + (second ? first : 0);
  }
  __syncthreads();
  before = shared.before;
  return shared.chosen;
}

/// Where digit 0, 1, 2 of a key begins: 11, 11 and 10 bits.
__device__ constexpr int digit_shift(int digit) { return digit == 0 ? 21 : digit == 1 ? 10 : 0; }
__device__ constexpr int digit_bits(int digit) { return digit == 2 ? 10 : 11; }

/// select_key among the scores of one bin where these are many, as they are where many scores are equal: digit by
/// digit.
template <typename Weigh>
__device__ uint32_t select_in_full_bin(Shared& shared, const float* __restrict__ scores, int vocab_size,
                                       const Bins& bins, int bin, unsigned long long target, const Weigh& weigh,
                                       unsigned long long& before) {
  uint32_t prefix = 0;
#pragma unroll 1  // rare: code that is not there costs no instruction cache
  for (int digit = 0; digit < 3; ++digit) {
    const int shift = digit_shift(digit), digit_count = 1 << digit_bits(digit);
    __syncthreads();
    for (int place = threadIdx.x; place < kBins; place += kThreads) shared.digits[place] = 0;
    __syncthreads();
    for_scores(scores, vocab_size, [&](int, float score, bool exists) {
      const uint32_t key = key_of(score);
      const bool counts =
          exists && bins.bin_of(score) == bin && (digit == 0 || key >> (shift + digit_bits(digit)) == prefix);
      const unsigned long long weight = counts ? weigh(key, score) : 0;
      const auto place = static_cast<int>(key >> shift & static_cast<uint32_t>(digit_count - 1));
      const unsigned lanes = __ballot_sync(~0u, weight != 0);
      if (lanes == 0) return;
      const int leader = __ffs(static_cast<int>(lanes)) - 1;
      const int first_place = __shfl_sync(~0u, place, leader);
      if (__all_sync(~0u, weight == 0 || place == first_place)) {  // one addition for the warp
        unsigned long long sum = weight;
        for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
        if (static_cast<int>(threadIdx.x) % 32 == leader) atomicAdd(&shared.digits[place], sum);
      } else if (weight != 0) {
        atomicAdd(&shared.digits[place], weight);
      }
    });
    unsigned long long above = 0, total = 0;
    const int passed = passing_bin(
        shared, [&](int place) { return place < digit_count ? shared.digits[digit_count - 1 - place] : 0ull; }, total,
        nullptr, 0, target - before, above);
    before += above;
    prefix = prefix << digit_bits(digit) | static_cast<uint32_t>(digit_count - 1 - passed);
  }
  return prefix;
}

/// The largest key such that what weigh(key, score) gives, summed over all tokens of larger or equal keys, is more than
/// `target`; `before` becomes the sum over larger keys. With `fraction` > 0 the target is one less than that part of
/// the sum of all, rounded up, and is given back. Integers, so that the order of addition does not matter. Tokens are
/// read twice.
template <typename Weigh>
__device__ uint32_t select_key(Shared& shared, const float* __restrict__ scores, int vocab_size, const Bins& bins,
                               double fraction, unsigned long long& target, const Weigh& weigh,
                               unsigned long long& before) {
  __syncthreads();
  for (int place = threadIdx.x; place < kParts * kBins; place += kThreads)
    shared.parts[place / kBins][place % kBins] = 0;
  if (threadIdx.x == 0) {
    shared.list_length = 0;
    shared.key = 0;
  }
  __syncthreads();
  // Shared atomics of 32 bits are single instructions; those of 64 bits are loops of compare-and-swap.
  for_scores(scores, vocab_size, [&](int, float score, bool exists) {
    const unsigned long long weight = exists ? weigh(key_of(score), score) : 0;
    if (weight == 0) return;
    const int bin = bins.bin_of(score);
#pragma unroll
    for (int part = 0; part < kParts; ++part)
      if (const auto bits = static_cast<unsigned>(weight >> (part * kPartBits)) & ((1u << kPartBits) - 1); bits != 0)
        atomicAdd(&shared.parts[part][bin], bits);
  });
  unsigned long long total = 0;
  const int bin = passing_bin(
      shared,
      [&](int place) {
        unsigned long long sum = 0;
#pragma unroll
        for (int part = 0; part < kParts; ++part)
          sum += static_cast<unsigned long long>(shared.parts[part][place]) << (part * kPartBits);
        return sum;
      },
      total, fraction > 0 ? &target : nullptr, fraction, target, before);
  // The scores of that bin.
  __syncthreads();
  for_scores(scores, vocab_size, [&](int, float score, bool exists) {
    const uint32_t key = key_of(score);
    const unsigned long long weight = exists && bins.bin_of(score) == bin ? weigh(key, score) : 0;
    const unsigned lanes = __ballot_sync(~0u, weight != 0);
    if (lanes == 0) return;
    const int leader = __ffs(static_cast<int>(lanes)) - 1, lane = static_cast<int>(threadIdx.x) % 32;
    unsigned place = 0;
    if (lane == leader) place = atomicAdd(&shared.list_length, static_cast<unsigned>(__popc(lanes)));
    place = __shfl_sync(~0u, place, leader) + static_cast<unsigned>(__popc(lanes & ((1u << lane) - 1)));
    if (weight == 0 || place >= kListMax) return;
    shared.list.keys[place] = key;
    shared.list.weights[place] = weight;
  });
  __syncthreads();
  const unsigned length = shared.list_length;
  if (length > kListMax) return select_in_full_bin(shared, scores, vocab_size, bins, bin, target, weigh, before);
  for (unsigned own = threadIdx.x; own < length; own += kThreads) {
    const uint32_t key = shared.list.keys[own];
    unsigned long long larger = before, not_smaller = before;
    bool first = true;  // of equal keys
    for (unsigned other = 0; other < length; ++other) {
      const unsigned long long weight = shared.list.weights[other];
      if (shared.list.keys[other] > key) larger += weight;
      if (shared.list.keys[other] >= key) not_smaller += weight;
      first = first && (other >= own || shared.list.keys[other] != key);
    }
    if (first && target >= larger && target < not_smaller) {  // in one thread
      shared.key = key;
      shared.before = larger;
    }
  }
  __syncthreads();
  before = shared.before;
  return shared.key;
}

/// The first of the largest scores, or -1 if there is none or it is infinite, and the bins that the scores fill; the
/// same in all threads.
__device__ int first_maximum(Shared& shared, const float* __restrict__ scores, int vocab_size, Bins& bins) {
  float best = -INFINITY, smallest = INFINITY;
  int best_id = 0x7fffffff;
  const auto take = [&](float score, int id) {
    if (score > best || (score == best && id < best_id)) {
      best = score;
      best_id = id;
    }
  };
  for_scores(scores, vocab_size, [&](int id, float score, bool exists) {
    if (!exists) return;
    take(score, id);
    if (score != -INFINITY) smallest = fminf(smallest, score);
  });
  for (int offset = 16; offset > 0; offset /= 2) {
    take(__shfl_xor_sync(~0u, best, offset), __shfl_xor_sync(~0u, best_id, offset));
    smallest = fminf(smallest, __shfl_xor_sync(~0u, smallest, offset));
  }
  if (threadIdx.x % 32 == 0) {
    shared.warp_scores[threadIdx.x / 32] = best;
    shared.warp_ids[threadIdx.x / 32] = best_id;
    shared.warp_smallest[threadIdx.x / 32] = smallest;
  }
  __syncthreads();
  for (int warp = 0; warp < kWarps; ++warp) {
    take(shared.warp_scores[warp], shared.warp_ids[warp]);
    smallest = fminf(smallest, shared.warp_smallest[warp]);
  }
  const float range = fminf(best - smallest, kRangeMax);
  bins = {best, range > 0 ? kBins / range : 0.0f};
  return best_id == 0x7fffffff || isinf(best) ? -1 : best_id;
}

__device__ unsigned long long warp_sum(unsigned long long value) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  return value;
}

// Scores become integers: floor(2^40 exp((score - largest) / temperature)), so that sums are exact and the same in any
// order. top-k keeps keys from the k-th largest on; top-p keeps the keys above a threshold, and of those equal to it as
// many as are needed, lower ids first. Then the token at which the running sum, in order of ids, passes uniform * sum.
//
// mapping   a block a sequence; a warp a range of ids for the running sum.
// bytes     4 * vocab_size read once from memory (the mixture has just written them: from the L2 cache), then up to 6
//           times from the cache: 2 for top-k, 2 for top-p, 2 for the draw.
// atomics   of 32 bits, into bins that scores fill evenly; where more than 2048 scores lie in the bin that counts, most
//           of them equal, one of 64 bits a warp.
__global__ void __launch_bounds__(kThreads, 1) sample_tokens_block_per_sequence(SampleTokens in) {
  __shared__ Shared shared;
  const float* scores = in.scores + blockIdx.x * in.stride;
  const auto vocab_size = static_cast<int>(in.vocab_size);
  Bins bins;
  const int best = first_maximum(shared, scores, vocab_size, bins);
  const float largest = bins.largest;
  if (in.greedy || best < 0) {
    if (threadIdx.x == 0) in.tokens[blockIdx.x] = best;
    return;
  }
  unsigned long long before = 0;
  uint32_t threshold = 0;
  if (in.filter.top_k > 0 && in.filter.top_k < vocab_size) {
    auto target = static_cast<unsigned long long>(in.filter.top_k - 1);
    threshold = select_key(
        shared, scores, vocab_size, bins, 0, target, [](uint32_t, float) { return 1ull; }, before);
  }
  const auto inverse_temperature = static_cast<float>(1 / in.filter.temperature);
  const auto weigh = [&](uint32_t key, float score) {
    if (key < threshold || score == -INFINITY) return 0ull;
    return static_cast<unsigned long long>(static_cast<double>(expf((score - largest) * inverse_temperature)) * kOne);
  };
  unsigned ties_kept = 0xffffffffu;  // of tokens whose key is the threshold
  uint32_t kept_key = threshold;
  if (in.filter.top_p < 1) {
    unsigned long long target = 0;
    kept_key = select_key(shared, scores, vocab_size, bins, in.filter.top_p, target, weigh, before);
    const unsigned long long wanted = target + 1;
    // Equal keys weigh the same: how many of them are needed follows from one's weight.
    const unsigned long long weight = max(1ull, weigh(kept_key, score_of(kept_key)));
    ties_kept = static_cast<unsigned>((wanted - before + weight - 1) / weight);
  }
  // Sums of each warp's range of ids.
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int range = (vocab_size + kThreads - 1) / kThreads * 32;
  const int first = min(warp * range, vocab_size), last = min(first + range, vocab_size);
  unsigned long long own = 0;
  unsigned ties = 0;
  unsigned long long tie_weight = 0;
  for (int id = first + lane; id < last; id += 32) {
    const float score = scores[id];
    const uint32_t key = key_of(score);
    if (key > kept_key) own += weigh(key, score);
    if (key == kept_key) {
      ++ties;
      tie_weight = weigh(key, score);
    }
  }
  own = warp_sum(own);
  ties = static_cast<unsigned>(warp_sum(ties));
  for (int offset = 16; offset > 0; offset /= 2) tie_weight = max(tie_weight, __shfl_xor_sync(~0u, tie_weight, offset));
  __syncthreads();
  if (lane == 0) shared.warp_counts[warp] = ties;
  __syncthreads();
  unsigned ties_before = 0;
  for (int other = 0; other < warp; ++other) ties_before += shared.warp_counts[other];
  const unsigned ties_here = ties_before >= ties_kept ? 0 : min(ties, ties_kept - ties_before);
  own += ties_here * tie_weight;
  if (lane == 0) shared.warp_values[warp] = own;
  if (threadIdx.x == 0) shared.token = best;  // should all weights be 0
  __syncthreads();
  unsigned long long sum_before = 0, total = 0;
  for (int other = 0; other < kWarps; ++other) {
    if (other < warp) sum_before += shared.warp_values[other];
    total += shared.warp_values[other];
  }
  if (total > 0) {
    const auto drawn =
        min(total - 1, static_cast<unsigned long long>(in.uniforms[blockIdx.x] * static_cast<double>(total)));
    if (drawn >= sum_before && drawn < sum_before + own) {  // in one warp
      bool found = false;
      unsigned seen_ties = ties_before;
      for (int base = first; base < last && !found; base += 32) {
        const int id = base + lane;
        const float score = id < last ? scores[id] : -INFINITY;
        const uint32_t key = key_of(score);
        const bool tie = id < last && key == kept_key;
        const unsigned tie_lanes = __ballot_sync(~0u, tie);
        const unsigned tie_rank = seen_ties + static_cast<unsigned>(__popc(tie_lanes & ((1u << lane) - 1)));
        const bool kept = id < last && (key > kept_key || (tie && tie_rank < ties_kept));
        seen_ties += static_cast<unsigned>(__popc(tie_lanes));
        unsigned long long until = kept ? weigh(key, score) : 0;
        for (int offset = 1; offset < 32; offset *= 2) {
          const unsigned long long other = __shfl_up_sync(~0u, until, offset);
          if (lane >= offset) until += other;
        }
        const unsigned passed = __ballot_sync(~0u, drawn < sum_before + until);
        if (passed != 0) {
          found = true;
          if (lane == __ffs(static_cast<int>(passed)) - 1) shared.token = id;
        }
        sum_before += __shfl_sync(~0u, until, 31);
      }
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) in.tokens[blockIdx.x] = shared.token;
}

}  // namespace

void sample_tokens(cudaStream_t stream, const SampleTokens& arguments) {
  CBTM_ASSERT(arguments.vocab_size <= kVocabularyMax, "sums of parts of probabilities fit 32 bits");
  CBTM_ASSERT(reinterpret_cast<uintptr_t>(arguments.scores) % 16 == 0 && arguments.stride % 4 == 0,
              "scores are read four at a time");
  sample_tokens_block_per_sequence<<<static_cast<unsigned>(arguments.sequences), kThreads, 0, stream>>>(arguments);
  CBTM_CUDA_LAUNCHED("sample_tokens");
}

}  // namespace cbtm::cuda
