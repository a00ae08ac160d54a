#pragma once

#include <cstdint>

#include "cbtm/tensor_file/tensor_file.h"

namespace cbtm::fuzz {

/// Opens a file of tensors and reads every element of those that the program would read: a tensor larger than its file
/// is refused wherever a shape is expected.
inline void read_tensors(const std::filesystem::path& path) {
  constexpr int64_t kElementsMax = 1 << 16;
  const TensorFile file = TensorFile::open(path);
  double sum = 0;
  for (const StoredTensor& tensor : file.tensors()) {
    file.find(tensor.name);
    if (tensor.size() > kElementsMax) continue;
    for (const double value : tensor.values<double>()) sum += value;
    for (const float value : tensor.values<float>()) sum += static_cast<double>(value);
  }
  volatile double used = sum;
  static_cast<void>(used);
}

}  // namespace cbtm::fuzz
