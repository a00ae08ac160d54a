#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace cbtm::cuda {

/// Rows of `row_bytes` bytes, `pitch` bytes from one to the next.
struct RowCopy {
  void* destination;
  size_t destination_pitch;
  const void* source;
  size_t source_pitch;
  size_t row_bytes;
  size_t rows;
};

// Both take views of any size: the runtime's 2-D calls refuse pitches above 2^31 - 1 bytes, even for a single row, so
// that what lies together is copied in one piece, and rows that far apart one by one.

/// Copies within the GPU's memory, in the order of the stream.
void copy_rows(const RowCopy& copy, cudaStream_t stream);
/// Fills rows with zero bytes.
void zero_rows(void* data, size_t pitch, size_t row_bytes, size_t rows, cudaStream_t stream);

}  // namespace cbtm::cuda
