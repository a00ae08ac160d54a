#include "cbtm/accounting/schedule.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "cbtm/accounting/step_time.h"
#include "cbtm/base/philox.h"

namespace cbtm {
namespace {

/// The same by a clock that ticks: at each tick every free device takes the next job.
int64_t ticked_makespan(const std::vector<int64_t>& ticks, int64_t devices) {
  std::vector<int64_t> left(static_cast<size_t>(devices));
  size_t next = 0;
  for (int64_t now = 0;; ++now) {
    for (int64_t& work : left)
      while (work == 0 && next < ticks.size()) work = ticks[next++];
    if (next == ticks.size() && std::all_of(left.begin(), left.end(), [](int64_t work) { return work == 0; }))
      return now;
    for (int64_t& work : left) work -= work > 0 ? 1 : 0;
  }
}

TEST_CASE("the makespan is that of a clock that ticks") {
  PhiloxStream random(5, 0);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<int64_t> ticks(random.next_below(9));
    for (int64_t& work : ticks) work = static_cast<int64_t>(random.next_below(12));
    const auto devices = static_cast<int64_t>(1 + random.next_below(5));
    CAPTURE(ticks.size());
    CAPTURE(devices);
    const std::vector<double> seconds(ticks.begin(), ticks.end());
    const double span = makespan(seconds, devices);
    CHECK(span == static_cast<double>(ticked_makespan(ticks, devices)));
    const double total = std::accumulate(seconds.begin(), seconds.end(), 0.0);
    const double longest = seconds.empty() ? 0 : *std::max_element(seconds.begin(), seconds.end());
    CHECK(span >= std::max(longest, total / static_cast<double>(devices)));
    CHECK(makespan(seconds, 1) == total);
    CHECK(makespan(seconds, 100) == longest);
  }
  CHECK(makespan({}, 3) == 0);
}

TEST_CASE("a step's time on several devices") {
  const StepTime one{.micro_batch_seconds = 2, .update_seconds = 0.5};
  CHECK(step_seconds(one, 8, 1, 1000, 10) == 8 * 2 + 0.5);  // nobody to exchange with
  CHECK(step_seconds(one, 8, 4, 0, 0) == 2 * 2 + 0.125);
  CHECK(step_seconds(one, 9, 4, 0, 0) == 3 * 2 + 0.125);  // the ninth micro-batch takes a turn of its own
  CHECK(step_seconds(one, 8, 4, 1000, 500) == 2 * 2 + 0.125 + 2);
}

}  // namespace
}  // namespace cbtm
