#include "hopper/tensor_map.h"

#include <cuda_runtime.h>

#include <algorithm>

#include "cbtm/base/error.h"
#include "cbtm/device/device_error.h"
#include "dispatch.h"
#include "runtime/check.h"

namespace cbtm::cuda::hopper {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

Encode find_encode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result{};
  CBTM_CUDA(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12'000, cudaEnableDefault, &result));
  if (result != cudaDriverEntryPointSuccess || function == nullptr)
    throw DeviceError("the GPU's driver has no tensor maps: install one for CUDA 12 or later");
  return reinterpret_cast<Encode>(function);
}

CUtensorMapDataType map_type(DType dtype) {
  switch (dtype) {
    case DType::f32: return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
    case DType::bf16: return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    case DType::f16: return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    default: CBTM_ASSERT(false, "tiles are of float32, bfloat16 or float16"); return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  }
}

}  // namespace

bool has_tensor_map(ConstTensorView matrix) {
  const int64_t stride_bytes = matrix.row_stride * dtype_bytes(matrix.dtype);
  return matrix.size() > 0 && rows_aligned(matrix, 16) && stride_bytes < int64_t{1} << 40 &&
         std::max(matrix.rows, matrix.columns) <= int64_t{1} << 31;
}

CUtensorMap make_tensor_map(ConstTensorView matrix, int tile_rows, int tile_columns, TileSwizzle swizzle) {
  CBTM_ASSERT(has_tensor_map(matrix), "tiles are copied of matrices with aligned rows");
  static const Encode encode = find_encode();
  // A single row's stride says nothing, but must be a multiple of 16 all the same.
  const int64_t stride_bytes = matrix.rows > 1 ? matrix.row_stride * dtype_bytes(matrix.dtype) : 16;
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(matrix.columns), static_cast<cuuint64_t>(matrix.rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(stride_bytes)};
  const cuuint32_t tile[] = {static_cast<cuuint32_t>(tile_columns), static_cast<cuuint32_t>(tile_rows)};
  const cuuint32_t steps[] = {1, 1};
  alignas(64) CUtensorMap map;
  const CUresult status =
      encode(&map, map_type(matrix.dtype), 2, const_cast<void*>(matrix.data), sizes, strides, tile, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE,
             swizzle == TileSwizzle::bytes_128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  CBTM_ASSERT(status == CUDA_SUCCESS,
              "a tile has 1 to 256 rows, each of whole units of 16 bytes, 128 with the swizzle");
  return map;
}

}  // namespace cbtm::cuda::hopper
