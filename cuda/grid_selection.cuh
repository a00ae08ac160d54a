#pragma once

// Selection of the number of a given rank by all blocks of a cooperative launch, which decide together on the device.

#include <cooperative_groups.h>

#include <cstdint>
#include <cub/block/block_scan.cuh>

namespace cbtm::cuda {

/// Unsigned numbers in the order of the floats that they come from.
__device__ inline uint32_t sortable(float value) {
  const uint32_t bits = __float_as_uint(value);
  return bits ^ (bits >> 31 != 0 ? 0xffffffffu : 0x80000000u);
}
__device__ inline float from_sortable(uint32_t key) {
  return __uint_as_float(key ^ (key >> 31 != 0 ? 0x80000000u : 0xffffffffu));
}

constexpr int kSelectionThreads = 1024;
constexpr int kSelectionBins = 2048;  ///< two for each thread
constexpr int kSelectionSets = 3;     ///< of bins in global memory, used in turn
constexpr int64_t kSelectionBytes = int64_t{kSelectionSets} * kSelectionBins * 4;

/// As many blocks as the items can keep busy and the GPU holds at the same time: kSelectionThreads of one block always
/// fit a multiprocessor.
inline unsigned selection_blocks(int64_t items, int sm_count) {
  const int64_t wanted = (items + kSelectionThreads - 1) / kSelectionThreads;
  return static_cast<unsigned>(wanted < 1 ? 1 : wanted < sm_count ? wanted : sm_count);
}

struct SelectionShared {
  using Scan = cub::BlockScan<uint32_t, kSelectionThreads, cub::BLOCK_SCAN_WARP_SCANS>;
  uint32_t bins[kSelectionBins];
  Scan::TempStorage scan;
  int chosen;
  uint32_t rank_inside;
};

// The key of rank r, the largest being rank 0, of keys that the threads hold (each key in one thread):
//
//   selection.start(r);
//   do { every key: selection.add(key); } while (!selection.narrow());
//   ... selection.key()
//
// Every pass counts keys in 2048 bins, adds up the counts of all blocks and keeps the bin that holds the rank. The bins
// of the first pass are 64 to each power of two, for the magnitudes from 2^-15 to 2, so that the lanes of a warp seldom
// meet in a bin; the outermost bins hold what is smaller or larger. A bin inside is known to the bit after two further
// passes, an outermost one after three.
//
// grid      a cooperative launch; all threads of all blocks make the same calls
// bytes     a pass: 8 KiB of counts read by each block, those that are not 0 added by each block
// order     counts are integers, and every block draws the same conclusion from them: nothing depends on the schedule
class GridSelection {
 public:
  /// `sets`: kSelectionBytes in global memory, their content does not matter. The grid must be synchronised between
  /// this and the first narrow().
  __device__ GridSelection(SelectionShared& shared, uint32_t* sets) : shared_(shared), sets_(sets) { clear_set(0); }

  __device__ void start(uint32_t rank) {
    rank_ = rank;
    first_ = true;
    clear_block();
  }

  __device__ void add(uint32_t key) {
    if (first_) {
      atomicAdd(&shared_.bins[first_bin(key)], 1u);
    } else if (const uint32_t offset = key - low_; key >= low_ && offset < size_) {
      atomicAdd(&shared_.bins[offset >> shift_], 1u);
    }
  }

  /// True when the key is known. Synchronises the grid.
  __device__ bool narrow() {
    uint32_t* set = sets_ + pass_ * kSelectionBins;
    pass_ = (pass_ + 1) % kSelectionSets;
    __syncthreads();
    for (int bin = threadIdx.x; bin < kSelectionBins; bin += kSelectionThreads)
      if (shared_.bins[bin] != 0) atomicAdd(&set[bin], shared_.bins[bin]);
    // All blocks have read the next set, two passes ago, before they came to the last barrier.
    clear_set(pass_);
    cooperative_groups::this_grid().sync();
    const int bin = bin_of_rank(set);
    if (first_) {
      span_of_first(bin);
      first_ = false;
    } else {
      const uint32_t begin = static_cast<uint32_t>(bin) << shift_;
      low_ += begin;
      size_ = min(1u << shift_, size_ - begin);
    }
    if (size_ == 1) return true;
    const int bits = 32 - __clz(static_cast<int>(size_ - 1));
    shift_ = bits > 11 ? bits - 11 : 0;
    clear_block();
    return false;
  }

  __device__ uint32_t key() const { return low_; }

 private:
  static constexpr int kFirstShift = 17;               ///< 23 bits of mantissa, of which 6 tell the bin
  static constexpr uint32_t kLeast = (127 - 15) << 6;  ///< number of the bins' first step, 2^-15

  /// Steps of magnitude: 0 .. 1023.
  __device__ static int step_of(uint32_t magnitude) {
    const uint32_t step = magnitude >> kFirstShift;
    return step < kLeast ? 0 : static_cast<int>(min(step - kLeast, 1023u));
  }
  __device__ static int first_bin(uint32_t key) {
    const bool positive = key >> 31 != 0;
    const int step = step_of(positive ? key & 0x7fffffffu : 0x7fffffffu - key);
    return positive ? 1024 + step : 1023 - step;
  }
  __device__ void span_of_first(int bin) {
    const bool positive = bin >= 1024;
    const auto step = static_cast<uint32_t>(positive ? bin - 1024 : 1023 - bin);
    const uint32_t begin = step == 0 ? 0 : (kLeast + step) << kFirstShift;
    const uint32_t end = step == 1023 ? 0x80000000u : (kLeast + step + 1) << kFirstShift;
    low_ = positive ? 0x80000000u + begin : 0x80000000u - end;
    size_ = end - begin;
  }

  /// The bin that holds the key of rank_, which becomes its rank within the bin.
  __device__ int bin_of_rank(const uint32_t* set) {
    const int first = kSelectionBins - 1 - 2 * static_cast<int>(threadIdx.x);  // this thread's: first, then first - 1
    const uint2 counts = __ldcg(reinterpret_cast<const uint2*>(set + first - 1));
    uint32_t before;
    SelectionShared::Scan(shared_.scan).ExclusiveSum(counts.x + counts.y, before);
    if (rank_ >= before && rank_ - before < counts.x + counts.y) {
      const uint32_t rest = rank_ - before;
      const bool second = rest >= counts.y;
      shared_.chosen = second ? first - 1 : first;
      shared_.rank_inside = second ? rest - counts.y : rest;
    }
    __syncthreads();
    rank_ = shared_.rank_inside;
    return shared_.chosen;
  }

  __device__ void clear_block() {
    for (int bin = threadIdx.x; bin < kSelectionBins; bin += kSelectionThreads) shared_.bins[bin] = 0;
    __syncthreads();
  }
  __device__ void clear_set(int set) {
    for (int bin = static_cast<int>(blockIdx.x) * kSelectionThreads + static_cast<int>(threadIdx.x);
         bin < kSelectionBins; bin += static_cast<int>(gridDim.x) * kSelectionThreads)
      sets_[set * kSelectionBins + bin] = 0;
  }

  SelectionShared& shared_;
  uint32_t* sets_;
  uint32_t rank_ = 0;
  uint32_t low_ = 0, size_ = 0;  ///< the wanted key is one of low_ .. low_ + size_ - 1
  int shift_ = 0;                ///< a bin of this pass spans so many bits
  int pass_ = 0;
  bool first_ = false;
};

}  // namespace cbtm::cuda
