#pragma once

#include <cuda_runtime.h>

#include <string>
#include <vector>

#include "cbtm/device/device.h"
#include "cbtm/device/profile_range.h"

namespace cbtm::cuda {

/// Phases as NVTX ranges, and the profiler (Nsight Systems or Compute) started and stopped around those asked for.
class Phases {
 public:
  /// Throws Error if a range that is asked for begins within a capture of `stream`.
  void begin(const char* name, cudaStream_t stream);
  void end();
  void profile(const ProfileRange& range) { range_ = range; }
  /// Whether the phases that are asked for are parts of a pass ("layer"): then passes are not run as graphs.
  bool inside_passes() const { return range_.phase.starts_with("layer"); }
  /// Gives a stream its name in the profiler's timeline.
  static void name_stream(cudaStream_t stream, const char* name);

 private:
  ProfileRange range_;
  int64_t met_ = 0;  ///< phases of the range's name, begun so far
  bool capturing_ = false;
  std::vector<bool> captured_;  ///< of the open phases: whether it counts for the range
};

/// An operator's NVTX range.
class OperatorRange {
 public:
  explicit OperatorRange(const char* name);
  OperatorRange(const OperatorRange&) = delete;
  OperatorRange& operator=(const OperatorRange&) = delete;
  ~OperatorRange();
};

}  // namespace cbtm::cuda
