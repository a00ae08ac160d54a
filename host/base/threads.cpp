#include "cbtm/base/threads.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <thread>

#include "cbtm/base/cgroup.h"
#include "cbtm/base/error.h"

namespace cbtm {
namespace {

int chosen_thread_count = 0;

/// libgomp's threads wait for each other by spinning, up to tens of milliseconds before they sleep. On a machine that
/// others use too, they would spin on the very core that the awaited thread needs. A short spin lost nothing on an idle
/// machine and was 2.4 times as fast on a busy one (`cbtm bench train`, preset nano, two cores, two other processes).
/// libgomp reads the variable in its own constructor, which runs later when it is linked statically, as in ./cbtm.
__attribute__((constructor(101))) void spin_briefly() {
  if (std::getenv("OMP_WAIT_POLICY") == nullptr) setenv("GOMP_SPINCOUNT", "1000", /*overwrite=*/0);
}

}  // namespace

int available_threads() {
  int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) cores = std::min(cores, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::min<double>(cores, std::ceil(cgroup_limits().cores))));
}

void set_thread_count(int count) {
  CBTM_ASSERT(count >= 1, "the command line has been checked");
  chosen_thread_count = count;
  omp_set_num_threads(count);
}

int thread_count() {
  if (chosen_thread_count == 0) set_thread_count(available_threads());
  return chosen_thread_count;
}

}  // namespace cbtm
