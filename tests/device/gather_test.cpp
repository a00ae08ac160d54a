#include "tests/device/gather_check.h"
#include "tests/device/operands.h"

namespace cbtm {

TEST_CASE("a gather copies rows as they are") { check_gather_rows(device_under_test()); }

}  // namespace cbtm
