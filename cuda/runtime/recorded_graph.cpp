#include "runtime/recorded_graph.h"

#include "runtime/check.h"

namespace cbtm::cuda {

RecordedGraph::RecordedGraph(cudaGraph_t graph, cudaStream_t stream, const UploadCache& uploads, bool once)
    : graph_(graph), stream_(stream), uploads_(uploads), generation_(uploads.generation()), once_(once) {
  if (const cudaError_t status = cudaGraphInstantiate(&executable_, graph_, 0); status != cudaSuccess) {
    cudaGraphDestroy(graph_);
    CBTM_CUDA(status);
  }
  CBTM_CUDA(cudaGraphUpload(executable_, stream_));
}

RecordedGraph::~RecordedGraph() {
  if (executable_ != nullptr) cudaGraphExecDestroy(executable_);  // if it still runs, once it has
  cudaGraphDestroy(graph_);
}

void RecordedGraph::run() {
  CBTM_ASSERT(valid(), "a graph is launched while the numbers that it reads are there");
  launched_ = true;
  CBTM_CUDA(cudaGraphLaunch(executable_, stream_));
}

}  // namespace cbtm::cuda
