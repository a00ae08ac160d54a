// Experts that do not fit the GPU together: their weights come on a stream of their own while others compute, within
// the bound, and the results are those of all in memory, bit for bit. That no operator reads weights before they are
// there, and no copy overwrites what is still read, is what the simulator's race checks find (CUDASIM_CHECK=all).
//
// The calls of the runtime that matter are counted on their way: these definitions come before the library's.

#include <cuda_runtime.h>
#include <dlfcn.h>

#include <map>
#include <mutex>
#include <set>

#include "cbtm/base/error.h"
#include "cuda_device.h"
#include "tests/cuda/half_precision.h"
#include "tests/ensemble/streamed_experts.h"

namespace {

constexpr size_t kWeightsAtLeast = 30'000;  // nothing else that is copied or allocated here in one piece is so large

struct Calls {
  std::mutex lock;
  std::map<void*, size_t> allocated;
  size_t bytes = 0, bytes_max = 0;
  std::set<cudaStream_t> weight_streams, launch_streams;
  int64_t weight_copies = 0;
  int64_t beside = 0;  ///< of those: with launches between their start and the first wait of the launches' stream
  int64_t waits_for_copies = 0;  ///< of the host
  bool copy_open = false, launched = false;

  void reset() {
    weight_streams.clear();
    launch_streams.clear();
    weight_copies = beside = waits_for_copies = 0;
    copy_open = launched = false;
    bytes_max = bytes;
  }
};
Calls calls;

/// The library's own `name`, called with what ours was.
template <typename... Arguments>
cudaError_t call_next(const char* name, Arguments... arguments) {
  return reinterpret_cast<cudaError_t (*)(Arguments...)>(dlsym(RTLD_NEXT, name))(arguments...);
}

}  // namespace

extern "C" {

cudaError_t cudaMalloc(void** data, size_t bytes) {
  const cudaError_t status = call_next("cudaMalloc", data, bytes);
  const std::lock_guard guard(calls.lock);
  if (status == cudaSuccess) {
    calls.allocated[*data] = bytes;
    calls.bytes_max = std::max(calls.bytes_max, calls.bytes += bytes);
  }
  return status;
}

cudaError_t cudaFree(void* data) {
  const cudaError_t status = call_next("cudaFree", data);
  const std::lock_guard guard(calls.lock);
  if (const auto found = calls.allocated.find(data); found != calls.allocated.end()) {
    calls.bytes -= found->second;
    calls.allocated.erase(found);
  }
  return status;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (kind == cudaMemcpyHostToDevice && bytes >= kWeightsAtLeast) {
    const std::lock_guard guard(calls.lock);
    calls.weight_streams.insert(stream);
    ++calls.weight_copies;
    calls.copy_open = true;
    calls.launched = false;
  }
  return call_next("cudaMemcpyAsync", to, from, bytes, kind, stream);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  {
    const std::lock_guard guard(calls.lock);
    if (calls.copy_open && calls.launch_streams.contains(stream)) {
      calls.beside += calls.launched ? 1 : 0;
      calls.copy_open = false;
    }
  }
  return call_next("cudaStreamWaitEvent", stream, event, flags);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  {
    const std::lock_guard guard(calls.lock);
    calls.waits_for_copies += calls.weight_streams.contains(stream) ? 1 : 0;
  }
  return call_next("cudaStreamSynchronize", stream);
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                               cudaStream_t stream) {
  {
    const std::lock_guard guard(calls.lock);
    calls.launch_streams.insert(stream);
    calls.launched = true;
  }
  return call_next("__cudaLaunchKernel", kernel, grid, block, arguments, shared, stream);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  {
    const std::lock_guard guard(calls.lock);
    calls.launch_streams.insert(stream);
    calls.launched = true;
  }
  return call_next("cudaGraphLaunch", graph, stream);
}

}  // extern "C"

namespace cbtm {
namespace {

Device& cuda() {
  static const std::unique_ptr<Device> device = make_cuda_device(0);
  return *device;
}

/// Device memory that `work` takes at most beside what was there before.
template <typename Work>
int64_t peak_bytes(const Work& work) {
  calls.reset();
  const size_t before = calls.bytes;
  work();
  return static_cast<int64_t>(calls.bytes_max - before);
}

TEST_CASE("evaluation with two of four experts in memory: the same bits, within the bound") {
  for (const WeightFormat weights : {WeightFormat::f32, WeightFormat::bf16, WeightFormat::int8, WeightFormat::int4}) {
    CAPTURE(weight_format_name(weights));
    const ExpertSet experts = golden_experts(weights);
    const GoldenBytes golden(weights);
    std::vector<std::vector<double>> want, got;
    evaluate_golden(cuda(), experts, 0);  // what the device keeps for itself is there from now on
    const int64_t all = peak_bytes([&] { want = evaluate_golden(cuda(), experts, 0); });
    const int64_t two = peak_bytes([&] { got = evaluate_golden(cuda(), experts, golden.memory(2)); });
    CHECK(got == want);
    CHECK(two <= all - 2 * golden.slot);
    CHECK(calls.weight_streams.size() == 1);
    CHECK(calls.launch_streams.size() == 1);
    CHECK(*calls.weight_streams.begin() != *calls.launch_streams.begin());
  }
}

TEST_CASE(
    "generation with two of four experts in memory: the same bits, within the bound, copied while others compute") {
  for (const auto& [weights, greedy] : {std::pair{WeightFormat::f32, true}, {WeightFormat::int4, false}}) {
    if (weights != WeightFormat::f32 && half_type() != DType::bf16) continue;  // computed in float32, as those
    CAPTURE(weight_format_name(weights));
    const ExpertSet experts = golden_experts(weights);
    const GoldenBytes golden(weights);
    const int64_t cache_bytes = 40 * int64_t{2} * 2 * 16 * 32 * (weights == WeightFormat::f32 ? 4 : 2);
    GoldenGeneration want, got;
    const int64_t all = peak_bytes([&] { want = generate_golden(cuda(), experts, 0, greedy, /*new_tokens=*/5); });
    const int64_t two = peak_bytes(
        [&] { got = generate_golden(cuda(), experts, golden.memory(2, cache_bytes / 2), greedy, /*new_tokens=*/5); });
    CHECK(got.ids == want.ids);
    CHECK(got.scores == want.scores);
    CHECK(got.statistics.bytes_max <= golden.memory(2, cache_bytes / 2));
    CHECK(two <= all - golden.slot);
    CHECK(got.statistics.loads > 6);
    CHECK(got.statistics.file_reads == 4);
    CHECK(calls.weight_copies == got.statistics.loads);
    REQUIRE(calls.weight_streams.size() == 1);
    CHECK_FALSE(calls.launch_streams.contains(*calls.weight_streams.begin()));
    CHECK(calls.beside >= got.statistics.loads - 4);  // all that come back
    CHECK(calls.waits_for_copies == 1);               // at the end
  }
}

TEST_CASE("one expert at a time: the same bits") {
  const ExpertSet experts = golden_experts();
  const GoldenBytes golden;
  CHECK(evaluate_golden(cuda(), experts, golden.memory(1)) == evaluate_golden(cuda(), experts, 0));
}

TEST_CASE("memory for less than one expert is refused with the numbers") {
  CHECK_THROWS_WITH_AS(evaluate_golden(cuda(), golden_experts(), GoldenBytes().memory(1) - 1),
                       doctest::Contains("its weights take 261 KiB"), Error);
}

}  // namespace
}  // namespace cbtm
