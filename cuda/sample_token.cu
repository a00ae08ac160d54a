// A token a sequence from its scores: the first maximum, or a draw after temperature, top-k and top-p.

#include "runtime/check.h"
#include "sample_token.h"

namespace cbtm::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kBins = 2048;
constexpr int kDigits = 3;
constexpr double kOne = 0x1p40;  ///< probability of the likeliest token in fixed point; 2^23 tokens' sum fits 64 bits

/// Where digit 0, 1, 2 of a key begins: 11, 11 and 10 bits.
__device__ constexpr int digit_shift(int digit) { return digit == 0 ? 21 : digit == 1 ? 10 : 0; }
__device__ constexpr int digit_bits(int digit) { return digit == 2 ? 10 : 11; }

/// Unsigned numbers in the order of the floats they come from; equal floats (-0 and 0 too) have equal keys.
__device__ uint32_t key_of(float value) {
  const uint32_t bits = __float_as_uint(value + 0.0f);
  return bits ^ (bits >> 31 != 0 ? 0xffffffffu : 0x80000000u);
}

struct Shared {
  unsigned long long bins[kBins];
  unsigned long long warp_values[kWarps];
  unsigned warp_counts[kWarps];
  float warp_scores[kWarps];
  int warp_ids[kWarps];
  int chosen;
  unsigned long long before;
  int token;
};

/// The bin in which the running sum of `bins`, from the last bin down, passes `target` (becomes more than it); `before`
/// is the sum of the bins above. If the sum never does (nothing has a weight): -1 and 0.
__device__ int passing_bin(Shared& shared, unsigned long long target, unsigned long long& before) {
  __syncthreads();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const unsigned long long first = shared.bins[kBins - 1 - 2 * threadIdx.x];
  const unsigned long long own = first + shared.bins[kBins - 2 - 2 * threadIdx.x];
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
  for (int i = 0; i < warp; ++i) until += shared.warp_values[i];
  const unsigned long long above = until - own;
  if (target >= above && target < until) {  // in one thread at most
    const bool second = target >= above + first;
    shared.chosen = kBins - 1 - 2 * static_cast<int>(threadIdx.x) - (second ? 1 : 0);
    shared.before = above + (second ? first : 0);
  }
  __syncthreads();
  before = shared.before;
  return shared.chosen;
}

/// The largest key such that what weigh(key) gives, summed over all tokens of larger or equal keys, is more than
/// `target`; `before` becomes the sum over larger keys. Integers, so that the order of addition does not matter. Tokens
/// are read once a digit.
template <typename Weigh>
__device__ uint32_t select_key(Shared& shared, const float* __restrict__ scores, int vocab_size,
                               unsigned long long target, const Weigh& weigh, unsigned long long& before) {
  uint32_t prefix = 0;
  before = 0;
#pragma unroll
  for (int digit = 0; digit < kDigits; ++digit) {
    __syncthreads();
    for (int bin = threadIdx.x; bin < kBins; bin += kThreads) shared.bins[bin] = 0;
    __syncthreads();
    for (int id = threadIdx.x; id < vocab_size; id += kThreads) {
      const float score = scores[id];
      const uint32_t key = key_of(score);
      if (digit > 0 && key >> (digit_shift(digit) + digit_bits(digit)) != prefix) continue;
      const unsigned long long weight = weigh(key, score);
      if (weight != 0) atomicAdd(&shared.bins[key >> digit_shift(digit) & ((1u << digit_bits(digit)) - 1)], weight);
    }
    unsigned long long above = 0;
    const int bin = passing_bin(shared, target - before, above);
    before += above;
    prefix = prefix << digit_bits(digit) | static_cast<uint32_t>(bin);
  }
  return prefix;
}

/// The first of the largest scores; the same in all threads.
__device__ int first_maximum(Shared& shared, const float* __restrict__ scores, int vocab_size, float& largest) {
  float best = -INFINITY;
  int best_id = 0x7fffffff;
  for (int id = threadIdx.x; id < vocab_size; id += kThreads)
    if (const float score = scores[id]; score > best || best_id == 0x7fffffff) {
      best = score;
      best_id = id;
    }
  const auto take = [&](float score, int id) {
    if (score > best || (score == best && id < best_id)) {
      best = score;
      best_id = id;
    }
  };
  for (int offset = 16; offset > 0; offset /= 2)
    take(__shfl_xor_sync(~0u, best, offset), __shfl_xor_sync(~0u, best_id, offset));
  if (threadIdx.x % 32 == 0) {
    shared.warp_scores[threadIdx.x / 32] = best;
    shared.warp_ids[threadIdx.x / 32] = best_id;
  }
  __syncthreads();
  for (int warp = 0; warp < kWarps; ++warp) take(shared.warp_scores[warp], shared.warp_ids[warp]);
  largest = best;
  return best_id;
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
// bytes     4 * vocab_size read once from memory (the mixture has just written them: from the L2 cache), then up to 9
//           times from the cache: 3 for top-k, 1 for the sum, 3 for top-p, 2 for the draw.
__global__ void __launch_bounds__(kThreads, 1) sample_tokens_block_per_sequence(SampleTokens in) {
  __shared__ Shared shared;
  const float* scores = in.scores + blockIdx.x * in.stride;
  const auto vocab_size = static_cast<int>(in.vocab_size);
  float largest;
  const int best = first_maximum(shared, scores, vocab_size, largest);
  if (in.greedy) {
    if (threadIdx.x == 0) in.tokens[blockIdx.x] = best;
    return;
  }
  unsigned long long before = 0;
  uint32_t threshold = 0;
  if (in.filter.top_k > 0 && in.filter.top_k < vocab_size)
    threshold = select_key(
        shared, scores, vocab_size, static_cast<unsigned long long>(in.filter.top_k - 1),
        [](uint32_t, float) { return 1ull; }, before);
  const auto inverse_temperature = static_cast<float>(1 / in.filter.temperature);
  const auto weigh = [&](uint32_t key, float score) {
    if (key < threshold || score == -INFINITY) return 0ull;
    return static_cast<unsigned long long>(static_cast<double>(expf((score - largest) * inverse_temperature)) * kOne);
  };
  unsigned ties_kept = 0xffffffffu;  // of tokens whose key is the threshold
  uint32_t kept_key = threshold;
  if (in.filter.top_p < 1) {
    unsigned long long own = 0;
    for (int id = threadIdx.x; id < vocab_size; id += kThreads) own += weigh(key_of(scores[id]), scores[id]);
    own = warp_sum(own);
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared.warp_values[threadIdx.x / 32] = own;
    __syncthreads();
    unsigned long long total = 0;
    for (int warp = 0; warp < kWarps; ++warp) total += shared.warp_values[warp];
    const auto wanted =
        max(1ull, min(total, static_cast<unsigned long long>(ceil(in.filter.top_p * static_cast<double>(total)))));
    kept_key = select_key(shared, scores, vocab_size, wanted - 1, weigh, before);
    // Equal keys weigh the same: how many of them are needed follows from one's weight.
    const uint32_t bits = kept_key ^ (kept_key >> 31 != 0 ? 0x80000000u : 0xffffffffu);
    const unsigned long long weight = max(1ull, weigh(kept_key, __uint_as_float(bits)));
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
  CBTM_ASSERT(arguments.vocab_size < int64_t{1} << 23, "sums of fixed-point probabilities fit 64 bits");
  sample_tokens_block_per_sequence<<<static_cast<unsigned>(arguments.sequences), kThreads, 0, stream>>>(arguments);
  CBTM_CUDA_LAUNCHED("sample_tokens");
}

}  // namespace cbtm::cuda
