#include "cbtm/device/device_matrix.h"

#include <algorithm>
#include <cstring>

#include "cbtm/base/ceil_divide.h"

namespace cbtm {
namespace {

constexpr int64_t kPieceBytes = int64_t{4} << 20;  ///< of padded rows that are on the host at a time

}  // namespace

DeviceMatrix DeviceMatrix::padded(Device& device, DType dtype, int64_t rows, int64_t columns,
                                  std::string_view purpose) {
  const int64_t alignment = std::max<int64_t>(1, device.row_alignment_bytes() / dtype_bytes(dtype));
  const int64_t row_stride = round_up(columns, alignment);
  DeviceMatrix matrix(device, dtype, rows, row_stride, purpose);
  if (row_stride != columns) device.fill_zero(matrix.view_);
  matrix.view_.columns = columns;
  return matrix;
}

void DeviceMatrix::copy_from_host(void* target, const void* host) const {
  const int64_t row_bytes = view_.columns * dtype_bytes(view_.dtype);
  if (view_.contiguous()) return device_->copy_to_device(target, host, view_.rows * row_bytes);
  const int64_t stride_bytes = view_.row_stride * dtype_bytes(view_.dtype);
  const int64_t piece = std::max<int64_t>(1, kPieceBytes / stride_bytes);
  std::vector<char> padded(static_cast<size_t>(std::min(piece, view_.rows) * stride_bytes), 0);
  for (int64_t first = 0; first < view_.rows; first += piece) {
    const int64_t count = std::min(piece, view_.rows - first);
    for (int64_t row = 0; row < count; ++row)
      std::memcpy(padded.data() + row * stride_bytes, static_cast<const char*>(host) + (first + row) * row_bytes,
                  static_cast<size_t>(row_bytes));
    device_->copy_to_device(static_cast<char*>(target) + first * stride_bytes, padded.data(), count * stride_bytes);
  }
}

void DeviceMatrix::copy_to_host(void* host, const void* source) const {
  const int64_t row_bytes = view_.columns * dtype_bytes(view_.dtype);
  if (view_.contiguous()) return device_->copy_to_host(host, source, view_.rows * row_bytes);
  const int64_t stride_bytes = view_.row_stride * dtype_bytes(view_.dtype);
  const int64_t piece = std::max<int64_t>(1, kPieceBytes / stride_bytes);
  std::vector<char> padded(static_cast<size_t>(std::min(piece, view_.rows) * stride_bytes));
  for (int64_t first = 0; first < view_.rows; first += piece) {
    const int64_t count = std::min(piece, view_.rows - first);
    device_->copy_to_host(padded.data(), static_cast<const char*>(source) + first * stride_bytes, count * stride_bytes);
    for (int64_t row = 0; row < count; ++row)
      std::memcpy(static_cast<char*>(host) + (first + row) * row_bytes, padded.data() + row * stride_bytes,
                  static_cast<size_t>(row_bytes));
  }
}

}  // namespace cbtm
