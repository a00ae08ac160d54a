#include "cpu/copy.h"

#include <cstring>
#include <type_traits>

#include "cbtm/base/error.h"
#include "cbtm/base/half_types.h"
#include "cbtm/base/threads.h"

namespace cbtm::cpu {
namespace {

template <typename Target, typename Source>
void convert_rows(TensorView destination, ConstTensorView source) {
  for (int64_t row = 0; row < source.rows; ++row) {
    const Source* from = source.as<Source>() + row * source.row_stride;
    Target* to = destination.as<Target>() + row * destination.row_stride;
    for (int64_t column = 0; column < source.columns; ++column) {
      const float value = to_float(from[column]);
      if constexpr (std::is_same_v<Target, float>) to[column] = value;
      if constexpr (std::is_same_v<Target, bf16>) to[column] = to_bf16(value);
      if constexpr (std::is_same_v<Target, f16>) to[column] = to_f16(value);
    }
  }
}

template <typename Source>
void convert_from(TensorView destination, ConstTensorView source) {
  switch (destination.dtype) {
    case DType::f32: return convert_rows<float, Source>(destination, source);
    case DType::bf16: return convert_rows<bf16, Source>(destination, source);
    case DType::f16: return convert_rows<f16, Source>(destination, source);
    default: CBTM_ASSERT(false, "copies convert between floating types only");
  }
}

}  // namespace

void copy(TensorView destination, ConstTensorView source) {
  CBTM_ASSERT(destination.rows == source.rows && destination.columns == source.columns, "a copy keeps the shape");
  if (destination.dtype == source.dtype) {
    const int64_t item = dtype_bytes(source.dtype);
    for (int64_t row = 0; row < source.rows; ++row)
      std::memcpy(static_cast<char*>(destination.data) + row * destination.row_stride * item,
                  static_cast<const char*>(source.data) + row * source.row_stride * item,
                  static_cast<size_t>(source.columns * item));
    return;
  }
  switch (source.dtype) {
    case DType::f32: return convert_from<float>(destination, source);
    case DType::bf16: return convert_from<bf16>(destination, source);
    case DType::f16: return convert_from<f16>(destination, source);
    default: CBTM_ASSERT(false, "copies convert between floating types only");
  }
}

void fill_zero(TensorView destination) {
  const int64_t item = dtype_bytes(destination.dtype);
  parallel_ranges(destination.rows, static_cast<double>(destination.columns) * 0.1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      std::memset(static_cast<char*>(destination.data) + row * destination.row_stride * item, 0,
                  static_cast<size_t>(destination.columns * item));
  });
}

}  // namespace cbtm::cpu
