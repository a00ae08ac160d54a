#include "cbtm/device/device.h"

#include "cbtm/base/error.h"

namespace cbtm {

DeviceBuffer::~DeviceBuffer() {
  if (data_ != nullptr) device_->release_bytes(data_, bytes_);
}

std::unique_ptr<RecordedOperators> Device::record(const std::function<void()>&) {
  CBTM_ASSERT(records(), "only a device that records is asked to");
  return nullptr;
}

std::vector<std::unique_ptr<Collectives>> Device::connect(std::span<Device* const>) {
  fail_usage("{} does not train together with other devices; name one device, or several GPUs (cuda:0,1)",
             description());
}

std::unique_ptr<HostCopy> Device::start_copy_to_host(std::vector<HostCopyPiece> pieces) {
  class Done final : public HostCopy {
   public:
    void wait() override {}
  };
  for (const HostCopyPiece& piece : pieces) copy_to_host(piece.destination, piece.source, piece.bytes);
  return std::make_unique<Done>();
}

void Device::profile(const ProfileRange&) {
  fail_usage("--profile is for a GPU; on the CPU, use perf or valgrind on the whole command");
}

DeviceBuffer Device::allocate(int64_t bytes, std::string_view purpose) {
  CBTM_ASSERT(bytes >= 0, "sizes are computed from shapes");
  return {this, allocate_bytes(bytes, purpose), bytes};
}

}  // namespace cbtm
