#include "finite.h"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

// result = NaN if any of count values is not finite. One warp: count is the micro-batches of a step.
// bytes: count * 8 read.
__global__ void require_finite_kernel(const double* values, int64_t count, double* result) {
  bool finite = true;
  for (int64_t i = threadIdx.x; i < count; i += 32) finite = finite && isfinite(values[i]);
  if (!__all_sync(0xffffffffu, finite) && threadIdx.x == 0) *result = __longlong_as_double(0x7ff8000000000000ll);
}

}  // namespace

void require_finite(Context& context, ConstTensorView values, TensorView result) {
  require_finite_kernel<<<1, 32, 0, context.stream>>>(values.as<double>(), values.columns, result.as<double>());
  CBTM_CUDA_LAUNCHED("require_finite");
}

}  // namespace cbtm::cuda
