#include "runtime/upload_cache.h"

#include "runtime/check.h"

namespace cbtm::cuda {

const int32_t* UploadCache::upload(std::span<const int32_t> values, StagingRing& staging, cudaStream_t stream) {
  const std::vector<int32_t> key(values.begin(), values.end());
  if (const auto found = places_.find(key); found != places_.end()) return found->second;
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  CBTM_CUDA(cudaStreamIsCapturing(stream, &capture));
  if (capture != cudaStreamCaptureStatusNone) return nullptr;
  const int64_t bytes = static_cast<int64_t>(values.size_bytes());
  const int64_t room = (bytes + 255) / 256 * 256;
  if (room > kBytes) fail("{} numbers for one operator, {} bytes at most", values.size(), kBytes);
  if (used_ + room > kBytes) {
    places_.clear();
    used_ = 0;
    ++generation_;
  }
  auto* place = reinterpret_cast<int32_t*>(memory_.data() + used_);
  used_ += room;
  staging.copy(place, values.data(), bytes, stream);
  places_.emplace(key, place);
  return place;
}

}  // namespace cbtm::cuda
