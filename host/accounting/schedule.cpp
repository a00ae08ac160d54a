#include "cbtm/accounting/schedule.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <vector>

#include "cbtm/base/error.h"

namespace cbtm {

double makespan(std::span<const double> seconds, int64_t devices) {
  CBTM_ASSERT(devices >= 1, "jobs need a device");
  const size_t used = std::min(static_cast<size_t>(devices), std::max<size_t>(1, seconds.size()));
  std::priority_queue<double, std::vector<double>, std::greater<>> free_at(std::greater<>(),
                                                                           std::vector<double>(used, 0.0));
  double end = 0;
  for (const double duration : seconds) {
    CBTM_ASSERT(duration >= 0, "a job takes time");
    const double ends = free_at.top() + duration;
    free_at.pop();
    free_at.push(ends);
    end = std::max(end, ends);
  }
  return end;
}

}  // namespace cbtm
