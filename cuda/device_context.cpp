#include "device_context.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>

#include "cbtm/base/ceil_divide.h"
#include "runtime/check.h"
#include "runtime/cublaslt.h"
#include "runtime/not_recordable.h"
#include "runtime/phases.h"
#include "runtime/recorded_graph.h"

namespace cbtm::cuda {
namespace {

/// $XDG_CACHE_HOME/cbtm/matmul-GPU.txt, or in ~/.cache; empty if there is no home.
std::string matmul_cache_file(std::string gpu) {
  for (char& c : gpu)
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '-';
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  const std::string file = fmt::format("/cbtm/matmul-{}-cublaslt-{}.txt", gpu, cublas_lt().get_version());
  if (cache != nullptr && *cache != 0) return cache + file;
  return home != nullptr && *home != 0 ? home + ("/.cache" + file) : std::string();
}

}  // namespace

DeviceContext::DeviceContext(int index) {
  CBTM_CUDA(cudaSetDevice(index));
  cudaDeviceProp properties{};
  CBTM_CUDA(cudaGetDeviceProperties(&properties, index));
  name_ = properties.name;
  sm_count = properties.multiProcessorCount;
  compute_capability = properties.major * 10 + properties.minor;
  shared_bytes_per_block_max = static_cast<int>(properties.sharedMemPerBlockOptin);
  operators_ = std::make_unique<Stream>();
  stream = *operators_;
  Phases::name_stream(stream, "operators");
  staging_ = std::make_unique<StagingRing>();
  landing_ = std::make_unique<LandingMemory>();
  uploads_ = std::make_unique<UploadCache>();
  sequence_tables_ = std::make_unique<SequenceTables>(*staging_, stream);
}

DeviceContext::~DeviceContext() { cudaStreamSynchronize(stream); }

void* DeviceContext::allocate(int64_t bytes, std::string_view purpose) {
  if (void* data = reserved_.take(bytes); data != nullptr) return data;
  return DeviceMemory(bytes, purpose).release();
}

void DeviceContext::release(void* data) noexcept {
  if (!reserved_.give_back(data)) cudaFree(data);
}

void DeviceContext::reserve(int64_t bytes, std::string_view purpose) {
  if (!reserved_.empty()) return;  // another run's: allocations come one by one
  reserved_.own(DeviceMemory(bytes, purpose));
}

void* DeviceContext::workspace(int64_t bytes) {
  if (bytes > workspace_.bytes()) {
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    CBTM_CUDA(cudaStreamIsCapturing(stream, &capture));
    CBTM_ASSERT(capture == cudaStreamCaptureStatusNone, "scratch memory grows outside of captured steps only");
    CBTM_CUDA(cudaStreamSynchronize(stream));
    workspace_ = DeviceMemory();  // freed before the larger one is asked for
    workspace_ = DeviceMemory(round_up(bytes, int64_t{2} << 20), "scratch memory");
  }
  return workspace_.data();
}

const int32_t* DeviceContext::upload(std::span<const int32_t> values) {
  const int32_t* place = uploads_->upload(values, *staging_, stream);
  if (place == nullptr) throw NotRecordable();
  return place;
}

SequenceTables& DeviceContext::sequence_tables(const PassSequences& sequences) {
  sequence_tables_->lay_out(sequences);
  return *sequence_tables_;
}

MatmulPlans& DeviceContext::matmul_plans() {
  if (matmul_plans_ == nullptr) matmul_plans_ = std::make_unique<MatmulPlans>(matmul_cache_file(name_), stream);
  return *matmul_plans_;
}

void DeviceContext::copy_to_device(void* destination, const void* host_source, int64_t bytes) {
  staging_->copy(destination, host_source, bytes, stream);
}

void DeviceContext::copy_to_host(void* host_destination, const void* source, int64_t bytes) {
  landing_->copy(host_destination, source, bytes, stream);
}

std::unique_ptr<RecordedOperators> DeviceContext::record(const std::function<void()>& calls) {
  const int64_t products = matmul_plans().products();
  // Thread-local: a thread that writes a checkpoint may wait for its copies meanwhile.
  CBTM_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  cudaGraph_t graph = nullptr;
  try {
    calls();
  } catch (...) {
    cudaStreamEndCapture(stream, &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();
    try {
      throw;
    } catch (const NotRecordable&) {
      return nullptr;
    }
  }
  CBTM_CUDA(cudaStreamEndCapture(stream, &graph));
  return std::make_unique<RecordedGraph>(graph, stream, *uploads_,
                                         matmul_plans().products() > products && !runs_on_the_gpu_alone(graph));
}

}  // namespace cbtm::cuda
