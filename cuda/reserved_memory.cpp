#include "reserved_memory.h"

#include <cuda_runtime.h>

#include "cbtm/base/error.h"

namespace cbtm::cuda {

ReservedMemory::~ReservedMemory() { cudaFree(memory_); }

void ReservedMemory::own(void* memory, int64_t bytes) {
  CBTM_ASSERT(empty(), "one run reserves memory at a time");
  memory_ = static_cast<char*>(memory);
  bytes_ = bytes;
  used_ = pieces_ = 0;
}

void* ReservedMemory::take(int64_t bytes) {
  const int64_t room = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (empty() || used_ + room > bytes_) return nullptr;
  void* piece = memory_ + used_;
  used_ += room;
  ++pieces_;
  return piece;
}

bool ReservedMemory::give_back(void* data) noexcept {
  const char* place = static_cast<char*>(data);
  if (empty() || place < memory_ || place >= memory_ + bytes_) return false;
  if (--pieces_ == 0) {
    cudaFree(memory_);
    memory_ = nullptr;
  }
  return true;
}

}  // namespace cbtm::cuda
