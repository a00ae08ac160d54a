#include "runtime/reserved_memory.h"

#include "cbtm/base/error.h"

namespace cbtm::cuda {

void ReservedMemory::own(DeviceMemory memory) {
  CBTM_ASSERT(empty(), "one run reserves memory at a time");
  memory_ = std::move(memory);
  used_ = pieces_ = 0;
}

void* ReservedMemory::take(int64_t bytes) {
  const int64_t room = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (empty() || used_ + room > memory_.bytes()) return nullptr;
  void* piece = memory_.data() + used_;
  used_ += room;
  ++pieces_;
  return piece;
}

bool ReservedMemory::give_back(void* data) noexcept {
  const char* place = static_cast<char*>(data);
  if (empty() || place < memory_.data() || place >= memory_.data() + memory_.bytes()) return false;
  if (--pieces_ == 0) memory_ = DeviceMemory();
  return true;
}

}  // namespace cbtm::cuda
