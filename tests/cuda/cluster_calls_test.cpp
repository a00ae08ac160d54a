// What k-means asks of the CUDA runtime: the program puts counting functions before those of the runtime (which is a
// shared library here).

#include <cuda_runtime.h>
#include <dlfcn.h>
#include <doctest/doctest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "cbtm/base/philox.h"
#include "cbtm/cluster/kmeans.h"
#include "cuda_device.h"

namespace {

std::map<std::string, int> calls;    // by function, since the last clear()
std::vector<size_t> copies_to_host;  // bytes of each, since the last clear()

template <typename Function>
Function* next(const char* name) {
  ++calls[name];
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {
cudaError_t cudaMalloc(void** memory, size_t bytes) {
  return next<cudaError_t(void**, size_t)>("cudaMalloc")(memory, bytes);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (kind == cudaMemcpyDeviceToHost) copies_to_host.push_back(bytes);
  return next<decltype(cudaMemcpyAsync)>("cudaMemcpyAsync")(to, from, bytes, kind, stream);
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                               cudaStream_t stream) {
  return next<cudaError_t(cudaKernel_t, dim3, dim3, void**, size_t, cudaStream_t)>("__cudaLaunchKernel")(
      kernel, grid, block, arguments, shared, stream);
}
cudaError_t cudaLaunchCooperativeKernel(const void* kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                                        cudaStream_t stream) {
  return next<cudaError_t(const void*, dim3, dim3, void**, size_t, cudaStream_t)>("cudaLaunchCooperativeKernel")(
      kernel, grid, block, arguments, shared, stream);
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return next<decltype(cudaStreamSynchronize)>("cudaStreamSynchronize")(stream);
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return next<decltype(cudaEventSynchronize)>("cudaEventSynchronize")(event);
}
}

namespace cbtm {
namespace {

constexpr int64_t kRows = 6000, kDimensions = 4, kClusters = 5;

std::vector<float> random_rows() {
  std::vector<float> rows(static_cast<size_t>(kRows * kDimensions));
  PhiloxStream random(11, 0);
  for (float& value : rows) value = static_cast<float>(random.next_uniform());
  return rows;
}

/// Runs k-means with two starts, and has `after_iteration` called after each iteration but the first of each start.
KMeansResult run(Device& device, bool balanced, const std::function<void()>& after_iteration) {
  calls.clear();
  copies_to_host.clear();
  KMeansOptions options{.clusters = kClusters, .balanced = balanced, .restarts = 2, .iterations_max = 4};
  options.progress = [&](int64_t, int64_t iteration, double) {
    if (iteration > 0) after_iteration();
    calls.clear();
  };
  return kmeans(device, random_rows(), kDimensions, options);
}

TEST_CASE("k-means: nothing as long as the rows comes to the host but the labels of the result, once") {
  const std::unique_ptr<Device> device = make_cuda_device(0);
  for (const bool balanced : {false, true}) {
    CAPTURE(balanced);
    const KMeansResult result = run(*device, balanced, [&] {
      // Distances, their sum, labels that changed; and of the balanced assignment: prices and counts twice, how many
      // points could move and what they cost.
      CHECK(calls["cudaEventSynchronize"] <= (balanced ? 5 : 2));
      CHECK(calls["cudaStreamSynchronize"] == 0);
      CHECK(calls["cudaMalloc"] == 0);
      // A launch for each sweep, whatever the number of clusters.
      CHECK(calls["cudaLaunchCooperativeKernel"] <= (balanced ? 6 + 1 : 0));
      CHECK(calls["__cudaLaunchKernel"] <= 22);
    });
    CHECK(result.labels.size() == kRows);
    // 4096 points at least may move, with the cost of each cluster.
    const size_t moving = balanced ? size_t{5000} * (kClusters + 1) * 4 : 0;
    int long_copies = 0;
    for (const size_t bytes : copies_to_host) {
      CHECK(bytes <= std::max<size_t>(kRows * 4, moving));
      long_copies += bytes == kRows * 4 ? 1 : 0;
    }
    CHECK(long_copies == 1);
  }
}

TEST_CASE("k-means++: no copy and no wait between the draws") {
  const std::unique_ptr<Device> device = make_cuda_device(0);
  calls.clear();
  copies_to_host.clear();
  // One iteration of as many clusters as make the draws the most of it.
  const KMeansResult result = kmeans(*device, random_rows(), kDimensions,
                                     {.clusters = 40, .balanced = false, .restarts = 1, .iterations_max = 1});
  CHECK(result.centroids.size() == 40 * kDimensions);
  CHECK(copies_to_host.size() == 1 + 2);  // the objective; centres and labels of the result
  CHECK(calls["cudaEventSynchronize"] == 3);
}

}  // namespace
}  // namespace cbtm
