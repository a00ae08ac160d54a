#include "hopper/available.h"

namespace cbtm::cuda::hopper {

bool is_built() {
#ifdef CBTM_HAS_SM_90A
  return true;
#else
  return false;
#endif
}

bool is_available(const Context& context) { return is_built() && context.compute_capability == 90; }

}  // namespace cbtm::cuda::hopper
