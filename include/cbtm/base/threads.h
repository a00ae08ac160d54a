#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <exception>

namespace cbtm {

/// Cores this process may use: the smallest of the machine's, the affinity mask's and the tightest quota
/// of its control groups (rounded up).
int available_threads();

/// How many threads operators and parsers use from now on (1 or more). Called once, by main, from --threads.
/// It changes the speed only: every result has the same bits for every number of threads.
void set_thread_count(int count);
int thread_count();

/// Work below this runs on the calling thread: waking a team costs a few microseconds.
inline constexpr double kParallelThresholdNs = 20'000;

/// Runs body(begin, end) over [0, count) on thread_count() threads, each with one contiguous range, when
/// count * cost_per_item (in rough nanoseconds) is worth waking them; else on the calling thread alone.
/// Where the ranges begin and end depends on the number of threads, so what the body computes for an item must not
/// depend on that: an item's value is its own, and what is summed over items is summed by parallel_chunks. If several
/// ranges throw, the exception of the first of them is rethrown on the caller.
template <typename Body>
void parallel_ranges(int64_t count, double cost_per_item_ns, const Body& body) {
  if (count <= 0) return;
  const int64_t threads = std::min<int64_t>(thread_count(), count);
  if (threads == 1 || omp_in_parallel() || static_cast<double>(count) * cost_per_item_ns < kParallelThresholdNs) {
    body(int64_t{0}, count);
    return;
  }
  std::exception_ptr failure;
  int64_t failed_range = threads;
#pragma omp parallel num_threads(static_cast <int>(threads))
  {
    const int64_t thread = omp_get_thread_num();
    const int64_t team = omp_get_num_threads();
    const int64_t begin = count * thread / team;
    const int64_t end = count * (thread + 1) / team;
    try {
      if (begin < end) body(begin, end);
    } catch (...) {
#pragma omp critical(cbtm_parallel_ranges)
      if (thread < failed_range) {
        failed_range = thread;
        failure = std::current_exception();
      }
    }
  }
  if (failure) std::rethrow_exception(failure);
}

/// Runs body(chunk, begin, end) once for each chunk of `chunk_items` of the items [0, count), the last of which may be
/// shorter. The chunks depend on the two sizes alone: a sum over each chunk, added up in the order of the chunks, has
/// the same bits for every number of threads.
template <typename Body>
void parallel_chunks(int64_t count, int64_t chunk_items, double cost_per_item_ns, const Body& body) {
  const int64_t chunks = (count + chunk_items - 1) / chunk_items;
  parallel_ranges(chunks, cost_per_item_ns * static_cast<double>(chunk_items), [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk)
      body(chunk, chunk * chunk_items, std::min(count, (chunk + 1) * chunk_items));
  });
}

}  // namespace cbtm
