// Every operator of the CUDA device against a reference in float64.

#include "cuda_device.h"
#include "tests/operators/operator_tests.h"

namespace cbtm {

Device& device_under_test() {
  static const std::unique_ptr<Device> device = make_cuda_device(0);
  return *device;
}

}  // namespace cbtm
