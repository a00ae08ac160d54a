// Every operator of the CPU against a reference in float64, and the reference's gradients against finite differences.

#include "tests/operators/operator_tests.h"

namespace cbtm {

Device& device_under_test() {
  static const std::unique_ptr<Device> device = make_cpu_device();
  return *device;
}

TEST_CASE("the references' gradients are those of the forward formulas") {
  for (const NamedCase& named : operator_cases()) {
    if (named.large) continue;
    CAPTURE(named.name);
    const std::string problems = fmt::format("{}", fmt::join(check_gradients(named.make()), "\n"));
    CHECK(problems == "");
  }
}

}  // namespace cbtm
