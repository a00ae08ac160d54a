#pragma once

#include <cuda_runtime.h>

#include <memory>
#include <span>
#include <vector>

#include "cbtm/device/collectives.h"

namespace cbtm::cuda {

/// A GPU of a group, and the stream that its operators run on.
struct GroupMember {
  int device_index;
  cudaStream_t operators;
};

/// Joins GPUs by NCCL, each with a stream of its own for the group's operations. Throws Error if NCCL is not there.
std::vector<std::unique_ptr<Collectives>> connect_gpus(std::span<const GroupMember> members);

}  // namespace cbtm::cuda
