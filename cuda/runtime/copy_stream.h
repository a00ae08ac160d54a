#pragma once

#include <cuda_runtime.h>

#include "cbtm/device/upload.h"
#include "runtime/handles.h"

namespace cbtm::cuda {

/// A second stream for copies from pinned memory, ordered with the stream of the operators by events alone.
class CopyStream final : public UploadStream {
 public:
  CopyStream(int device_index, cudaStream_t operators);

  std::unique_ptr<Upload> make_upload() override;
  std::shared_ptr<void> allocate_host(int64_t bytes) override;
  void synchronize() override;

 private:
  int device_index_;
  cudaStream_t operators_;
  Stream copies_{StreamPriority::urgent};
};

}  // namespace cbtm::cuda
