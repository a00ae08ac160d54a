#include "cbtm/device/device.h"

#include "cbtm/base/progress.h"

namespace cbtm {

DeviceBuffer::~DeviceBuffer() {
  if (data_ != nullptr) device_->release_bytes(data_, bytes_);
}

DeviceBuffer Device::allocate(int64_t bytes, std::string_view purpose) {
  CBTM_ASSERT(bytes >= 0, "sizes are computed from shapes");
  return {this, allocate_bytes(bytes, purpose), bytes};
}

std::unique_ptr<Device> open_device(std::string_view name) {
  if (name == "cpu" || name == "auto") {
    std::unique_ptr<Device> device = make_cpu_device();
    if (name == "auto") say("device: " + device->description());
    return device;
  }
  if (name == "cuda" || name.starts_with("cuda:"))
    fail("--device {}: this build has no CUDA device; use --device cpu", name);
  fail_usage("--device {}: unknown device; use auto, cpu, cuda or cuda:N", name);
}

}  // namespace cbtm
