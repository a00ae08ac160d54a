#include "model/stored_values.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/error.h"
#include "cbtm/base/half_types.h"
#include "cbtm/base/threads.h"

namespace cbtm {
namespace {

template <typename Target, typename Source>
void convert(const std::byte* from, int64_t count, Target* to) {
  for (int64_t i = 0; i < count; ++i) {
    Source value;
    std::memcpy(&value, from + i * static_cast<int64_t>(sizeof(Source)), sizeof value);
    if constexpr (std::is_same_v<Target, Source>) {
      to[i] = value;
    } else {
      const float wide = [&] {
        if constexpr (std::is_same_v<Source, double>)
          return static_cast<float>(value);
        else
          return to_float(value);
      }();
      if constexpr (std::is_same_v<Target, float>) to[i] = wide;
      if constexpr (std::is_same_v<Target, bf16>) to[i] = to_bf16(wide);
      if constexpr (std::is_same_v<Target, f16>) to[i] = to_f16(wide);
    }
  }
}

/// Rows by columns in squares, so that either of them may be the one that is contiguous.
template <typename Target, typename Source>
void convert_strided(const StoredTensor& tensor, Target* out) {
  constexpr int64_t kSquare = 64;
  const int64_t rows = tensor.shape[0], columns = tensor.shape[1];
  parallel_ranges(ceil_divide(rows, kSquare), static_cast<double>(kSquare * columns), [&](int64_t begin, int64_t end) {
    const int64_t row_end = std::min(rows, end * kSquare);
    for (int64_t first = 0; first < columns; first += kSquare)
      for (int64_t row = begin * kSquare; row < row_end; ++row)
        for (int64_t column = first; column < std::min(columns, first + kSquare); ++column)
          convert<Target, Source>(tensor.data + (row * tensor.strides[0] + column * tensor.strides[1]) *
                                                    static_cast<int64_t>(sizeof(Source)),
                                  1, out + row * columns + column);
  });
}

template <typename Target>
void read_strided(const StoredTensor& tensor, Target* out) {
  if (tensor.shape.size() != 2) {
    const std::vector<float> values = tensor.values<float>();
    return convert<Target, float>(reinterpret_cast<const std::byte*>(values.data()), tensor.size(), out);
  }
  switch (tensor.type) {
    case StoredType::f64: return convert_strided<Target, double>(tensor, out);
    case StoredType::f32: return convert_strided<Target, float>(tensor, out);
    case StoredType::bf16: return convert_strided<Target, bf16>(tensor, out);
    case StoredType::f16: return convert_strided<Target, f16>(tensor, out);
    default: CBTM_ASSERT(false, "the dtype was checked when the checkpoint was opened");
  }
}

template <typename Target>
void read_values(const StoredTensor& tensor, Target* out) {
  if (!tensor.contiguous()) return read_strided(tensor, out);
  parallel_ranges(tensor.size(), 0.5, [&](int64_t begin, int64_t end) {
    const std::byte* from = tensor.data + begin * stored_type_bytes(tensor.type);
    switch (tensor.type) {
      case StoredType::f64: return convert<Target, double>(from, end - begin, out + begin);
      case StoredType::f32: return convert<Target, float>(from, end - begin, out + begin);
      case StoredType::bf16: return convert<Target, bf16>(from, end - begin, out + begin);
      case StoredType::f16: return convert<Target, f16>(from, end - begin, out + begin);
      default: CBTM_ASSERT(false, "the dtype was checked when the checkpoint was opened");
    }
  });
}

}  // namespace

void read_stored_values(const StoredTensor& tensor, DType dtype, void* out) {
  switch (dtype) {
    case DType::f32: return read_values(tensor, static_cast<float*>(out));
    case DType::bf16: return read_values(tensor, static_cast<bf16*>(out));
    case DType::f16: return read_values(tensor, static_cast<f16*>(out));
    default: CBTM_ASSERT(false, "weights are f32, bf16 or f16");
  }
}

}  // namespace cbtm
