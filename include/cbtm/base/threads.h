#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <exception>

namespace cbtm {

/// The number of cores this process may use: the least of the machine's cores, the affinity mask and the tightest quota
/// of its control groups (rounded up).
int available_threads();

/// Sets the number of threads for operators and parsers (1 or more). main calls it once, from --threads. It changes
/// only the speed: every result has the same bits for every number of threads.
void set_thread_count(int count);
int thread_count();

/// Work below this runs on the calling thread, since waking other threads costs a few microseconds.
inline constexpr double kParallelThresholdNs = 20'000;

/// Splits [0, count) into one contiguous range per thread and runs body(begin, end) for each. Runs on the calling
/// thread alone if count * cost_per_item_ns (roughly, in nanoseconds) is too little work.
///
/// The borders of the ranges depend on the number of threads. So the result for an item must not depend on them: each
/// item has a value of its own, and sums over items use parallel_chunks. If several ranges throw, the caller gets the
/// exception of the first range.
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

/// Runs body(chunk, begin, end) once for each chunk of `chunk_items` items of [0, count); the last chunk may be
/// shorter. The chunks depend only on the two sizes. A sum over each chunk, added up in the order of the chunks, thus
/// has the same bits for every number of threads.
template <typename Body>
void parallel_chunks(int64_t count, int64_t chunk_items, double cost_per_item_ns, const Body& body) {
  const int64_t chunks = (count + chunk_items - 1) / chunk_items;
  parallel_ranges(chunks, cost_per_item_ns * static_cast<double>(chunk_items), [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk)
      body(chunk, chunk * chunk_items, std::min(count, (chunk + 1) * chunk_items));
  });
}

}  // namespace cbtm
