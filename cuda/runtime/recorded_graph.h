#pragma once

#include <cuda_runtime.h>

#include "cbtm/device/device.h"
#include "runtime/upload_cache.h"

namespace cbtm::cuda {

/// A captured stream as a graph that can be launched again; destroyed with the object. Valid while `uploads` keeps what
/// it kept during the capture.
class RecordedGraph final : public RecordedOperators {
 public:
  /// Takes `graph` over. `once`: it cannot be launched again.
  RecordedGraph(cudaGraph_t graph, cudaStream_t stream, const UploadCache& uploads, bool once);
  RecordedGraph(const RecordedGraph&) = delete;
  RecordedGraph& operator=(const RecordedGraph&) = delete;
  ~RecordedGraph() override;

  bool valid() const override { return uploads_.generation() == generation_ && !(once_ && launched_); }
  void run() override;

 private:
  cudaGraph_t graph_;
  cudaGraphExec_t executable_ = nullptr;
  cudaStream_t stream_;
  const UploadCache& uploads_;
  int64_t generation_;
  bool once_;
  bool launched_ = false;
};

/// Whether the driver says of every node of the graph that the GPU runs it. What a library has the host do may be kept
/// for one launch only. False where the driver does not tell.
bool runs_on_the_gpu_alone(cudaGraph_t graph);

}  // namespace cbtm::cuda
