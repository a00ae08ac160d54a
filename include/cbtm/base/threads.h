#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <exception>

namespace cbtm {

/// Cores this process may use: the smallest of the machine's, the affinity mask's and the cgroup's quota (rounded up).
int available_threads();

/// How many threads operators and parsers use from now on (1 or more). Called once, by main, from --threads.
/// Results of training are bitwise reproducible for equal thread counts.
void set_thread_count(int count);
int thread_count();

/// Work below this runs on the calling thread: waking a team costs a few microseconds.
inline constexpr double kParallelThresholdNs = 20'000;

/// Runs body(begin, end) over [0, count) on thread_count() threads, each with one contiguous range, when
/// count * cost_per_item (in rough nanoseconds) is worth waking them; else on the calling thread alone.
/// The partition depends on count and thread_count() only. Exceptions of the body are rethrown on the caller.
template <typename Body>
void parallel_ranges(int64_t count, double cost_per_item_ns, const Body& body) {
  if (count <= 0) return;
  const int64_t threads = std::min<int64_t>(thread_count(), count);
  if (threads == 1 || omp_in_parallel() || static_cast<double>(count) * cost_per_item_ns < kParallelThresholdNs) {
    body(int64_t{0}, count);
    return;
  }
  std::exception_ptr failure;
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
      failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace cbtm
