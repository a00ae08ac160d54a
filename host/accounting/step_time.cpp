#include "cbtm/accounting/step_time.h"

#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/error.h"

namespace cbtm {

double step_seconds(const StepTime& one, int64_t micro_batches, int64_t devices, int64_t exchange_bytes,
                    double link_bytes_per_second) {
  CBTM_ASSERT(micro_batches >= 1 && devices >= 1, "a step has micro-batches, and devices that compute them");
  const double turns = static_cast<double>(ceil_divide(micro_batches, devices));
  const double exchange =
      devices > 1 && link_bytes_per_second > 0 ? static_cast<double>(exchange_bytes) / link_bytes_per_second : 0;
  return turns * one.micro_batch_seconds + one.update_seconds / static_cast<double>(devices) + exchange;
}

}  // namespace cbtm
