#include "tests/cuda/attention_operands.h"
#include "tests/device/gather_check.h"

namespace cbtm {

TEST_CASE("a gather copies rows as they are") { check_gather_rows(cuda_device()); }

}  // namespace cbtm
