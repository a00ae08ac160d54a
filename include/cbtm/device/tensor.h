#pragma once

#include <cstdint>
#include <type_traits>

#include "cbtm/base/error.h"
#include "cbtm/base/half_types.h"

namespace cbtm {

enum class DType : uint8_t { f32, bf16, f16, f64, i64, i32, i8, u8 };

constexpr int64_t dtype_bytes(DType dtype) {
  switch (dtype) {
    case DType::f64:
    case DType::i64: return 8;
    case DType::f32:
    case DType::i32: return 4;
    case DType::bf16:
    case DType::f16: return 2;
    case DType::i8:
    case DType::u8: return 1;
  }
  return 0;
}
const char* dtype_name(DType dtype);

template <typename Element>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() {
  return DType::f32;
}
template <>
constexpr DType dtype_of<double>() {
  return DType::f64;
}
template <>
constexpr DType dtype_of<bf16>() {
  return DType::bf16;
}
template <>
constexpr DType dtype_of<f16>() {
  return DType::f16;
}
template <>
constexpr DType dtype_of<int64_t>() {
  return DType::i64;
}
template <>
constexpr DType dtype_of<int32_t>() {
  return DType::i32;
}
template <>
constexpr DType dtype_of<int8_t>() {
  return DType::i8;
}
template <>
constexpr DType dtype_of<uint8_t>() {
  return DType::u8;
}

/// A matrix in some device's memory, owned by somebody else: element (row, column) lies at
/// data + row * row_stride + column. A vector is a matrix of one row. An empty view (data null) means "not given".
template <bool kConst>
struct BasicTensorView {
  using Pointer = std::conditional_t<kConst, const void*, void*>;

  Pointer data = nullptr;
  DType dtype = DType::f32;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t row_stride = 0;  ///< in elements; >= columns

  BasicTensorView() = default;
  BasicTensorView(Pointer data_, DType dtype_, int64_t rows_, int64_t columns_)
      : BasicTensorView(data_, dtype_, rows_, columns_, columns_) {}
  BasicTensorView(Pointer data_, DType dtype_, int64_t rows_, int64_t columns_, int64_t row_stride_)
      : data(data_), dtype(dtype_), rows(rows_), columns(columns_), row_stride(row_stride_) {}
  template <bool kOther, typename = std::enable_if_t<kConst && !kOther>>
  BasicTensorView(const BasicTensorView<kOther>& other)  // NOLINT: a mutable view reads as a const one
      : BasicTensorView(other.data, other.dtype, other.rows, other.columns, other.row_stride) {}

  explicit operator bool() const { return data != nullptr; }
  int64_t size() const { return rows * columns; }
  bool contiguous() const { return row_stride == columns || rows <= 1; }

  /// Typed pointer to the first element; the type must be the view's.
  template <typename Element>
  std::conditional_t<kConst, const Element*, Element*> as() const {
    CBTM_ASSERT(dtype == dtype_of<Element>(), "a view is read as the type it holds");
    return static_cast<std::conditional_t<kConst, const Element*, Element*>>(data);
  }

  BasicTensorView row_range(int64_t first, int64_t count) const {
    CBTM_ASSERT(first >= 0 && count >= 0 && first + count <= rows, "a range lies inside its tensor");
    return {offset_pointer(first * row_stride), dtype, count, columns, row_stride};
  }
  BasicTensorView column_range(int64_t first, int64_t count) const {
    CBTM_ASSERT(first >= 0 && count >= 0 && first + count <= columns, "a range lies inside its tensor");
    return {offset_pointer(first), dtype, rows, count, row_stride};
  }

 private:
  Pointer offset_pointer(int64_t elements) const {
    using Byte = std::conditional_t<kConst, const char, char>;
    return static_cast<Byte*>(data) + elements * dtype_bytes(dtype);
  }
};

using TensorView = BasicTensorView<false>;
using ConstTensorView = BasicTensorView<true>;

/// A view of host values, for callers that hold plain arrays.
template <typename Element>
TensorView view_of(Element* data, int64_t rows, int64_t columns) {
  return {data, dtype_of<Element>(), rows, columns};
}
template <typename Element>
ConstTensorView view_of(const Element* data, int64_t rows, int64_t columns) {
  return {data, dtype_of<Element>(), rows, columns};
}

}  // namespace cbtm
