#pragma once

#include <cuda.h>

#include "cbtm/device/tensor.h"

namespace cbtm::cuda::hopper {

/// How a tile lies in shared memory: rows of at most 128 bytes whose 16-byte units are exchanged, or as in the matrix.
enum class TileSwizzle { none, bytes_128 };

/// Whether the hardware can copy tiles of the matrix: its first element and its rows are 16-byte aligned.
bool has_tensor_map(ConstTensorView matrix);

/// What bulk_copy.cuh copies tiles of `tile_rows` (1 to 256) by `tile_columns` elements of a bfloat16, float16 or
/// float32 matrix by; a kernel takes it as a `const __grid_constant__ CUtensorMap`. With the swizzle a tile's row has
/// at most 128 bytes, always a multiple of 16. The driver's function that makes it is asked for from the runtime:
/// nothing links the driver's library. Throws DeviceError if the driver has none.
CUtensorMap make_tensor_map(ConstTensorView matrix, int tile_rows, int tile_columns,
                            TileSwizzle swizzle = TileSwizzle::bytes_128);

}  // namespace cbtm::cuda::hopper
