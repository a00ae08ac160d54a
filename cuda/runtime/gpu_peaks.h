#pragma once

#include <string_view>

namespace cbtm::cuda {

/// Dense 16-bit tensor-core operations a second (float32 sums, multiply-adds count as two) of the GPU that the driver
/// calls `name`, from NVIDIA's datasheets; 0 if it is not among them.
double datasheet_flops(std::string_view name);
/// Bytes a second of its memory: clock times bus width, as the driver says; 0 if it does not.
double memory_bytes_per_second(int device_index);

}  // namespace cbtm::cuda
