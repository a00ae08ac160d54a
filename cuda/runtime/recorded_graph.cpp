#include "runtime/recorded_graph.h"

#include <cuda.h>

#include <algorithm>
#include <vector>

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

bool runs_on_the_gpu_alone(cudaGraph_t graph) {
  // By the driver's function, which can be looked for: not every library behind libcudart's interface has the
  // runtime's.
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  constexpr unsigned kVersion = 10000;
  if (cudaGetDriverEntryPointByVersion("cuGraphNodeGetType", &found, kVersion, cudaEnableDefault, &result) !=
      cudaSuccess)
    cudaGetLastError();
  if (result != cudaDriverEntryPointSuccess || found == nullptr) return false;
  const auto type_of = reinterpret_cast<decltype(&cuGraphNodeGetType)>(found);
  size_t count = 0;
  CBTM_CUDA(cudaGraphGetNodes(graph, nullptr, &count));
  std::vector<cudaGraphNode_t> nodes(count);
  CBTM_CUDA(cudaGraphGetNodes(graph, nodes.data(), &count));
  return std::ranges::all_of(nodes, [&](cudaGraphNode_t node) {
    CUgraphNodeType type = CU_GRAPH_NODE_TYPE_HOST;
    return type_of(node, &type) == CUDA_SUCCESS && type != CU_GRAPH_NODE_TYPE_HOST;
  });
}

}  // namespace cbtm::cuda
