#include "runtime/copy_rows.h"

#include <algorithm>
#include <cstdint>

#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

/// The largest pitch that the 2-D calls take (cudaDeviceProp::memPitch of every GPU so far).
constexpr size_t kPitchMax = INT32_MAX;

}  // namespace

void copy_rows(const RowCopy& c, cudaStream_t stream) {
  if (c.rows == 1 || (c.destination_pitch == c.row_bytes && c.source_pitch == c.row_bytes)) {
    CBTM_CUDA(cudaMemcpyAsync(c.destination, c.source, c.row_bytes * c.rows, cudaMemcpyDeviceToDevice, stream));
  } else if (std::max(c.destination_pitch, c.source_pitch) <= kPitchMax) {
    CBTM_CUDA(cudaMemcpy2DAsync(c.destination, c.destination_pitch, c.source, c.source_pitch, c.row_bytes, c.rows,
                                cudaMemcpyDeviceToDevice, stream));
  } else {
    for (size_t row = 0; row < c.rows; ++row)
      CBTM_CUDA(cudaMemcpyAsync(static_cast<char*>(c.destination) + row * c.destination_pitch,
                                static_cast<const char*>(c.source) + row * c.source_pitch, c.row_bytes,
                                cudaMemcpyDeviceToDevice, stream));
  }
}

void zero_rows(void* data, size_t pitch, size_t row_bytes, size_t rows, cudaStream_t stream) {
  if (rows == 1 || pitch == row_bytes) {
    CBTM_CUDA(cudaMemsetAsync(data, 0, row_bytes * rows, stream));
  } else if (pitch <= kPitchMax) {
    CBTM_CUDA(cudaMemset2DAsync(data, pitch, 0, row_bytes, rows, stream));
  } else {
    for (size_t row = 0; row < rows; ++row)
      CBTM_CUDA(cudaMemsetAsync(static_cast<char*>(data) + row * pitch, 0, row_bytes, stream));
  }
}

}  // namespace cbtm::cuda
