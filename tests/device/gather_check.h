#pragma once

#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "cbtm/base/philox.h"
#include "cbtm/device/device.h"
#include "cbtm/device/model_operators.h"

namespace cbtm {

/// gather_rows of `device` against a copy byte by byte: odd widths, rows that start anywhere, every type, rows that are
/// asked for several times; what lies between the rows stays.
inline void check_gather_rows(Device& device) {
  struct Shape {
    int64_t source_rows, width, source_stride, first_column, out_stride;
  };
  const std::vector<int32_t> rows = {4, 0, 4, 4, 1, 3, 0, 2, 4};
  for (const DType dtype :
       {DType::f32, DType::bf16, DType::f16, DType::f64, DType::i64, DType::i32, DType::i8, DType::u8})
    for (const Shape& s : {Shape{5, 1, 1, 0, 1},
                           {5, 3, 7, 1, 4},
                           {5, 64, 64, 0, 64},
                           {5, 37, 40, 2, 41},
                           {5, 768, 768, 0, 800},
                           {5, 1031, 1031, 0, 1031}}) {
      CAPTURE(dtype_name(dtype));
      CAPTURE(s.width);
      const int64_t item = dtype_bytes(dtype);
      const auto count = static_cast<int64_t>(rows.size());
      PhiloxStream stream(static_cast<uint64_t>(s.width), 5);
      std::vector<char> source(static_cast<size_t>(s.source_rows * s.source_stride * item));
      for (char& byte : source) byte = static_cast<char>(stream.next_below(256));
      std::vector<char> got(static_cast<size_t>(count * s.out_stride * item), 'x'), want = got;
      const int64_t columns = s.width - s.first_column;
      for (int64_t r = 0; r < count; ++r)
        std::memcpy(want.data() + r * s.out_stride * item,
                    source.data() + (rows[static_cast<size_t>(r)] * s.source_stride + s.first_column) * item,
                    static_cast<size_t>(columns * item));
      const DeviceBuffer from = device.allocate(static_cast<int64_t>(source.size()), "a test's rows");
      const DeviceBuffer to = device.allocate(static_cast<int64_t>(got.size()), "a test's rows");
      const DeviceBuffer numbers = device.allocate(count * 4, "a test's row numbers");
      device.copy_to_device(from.data(), source.data(), from.bytes());
      device.copy_to_device(to.data(), got.data(), to.bytes());
      device.copy_to_device(numbers.data(), rows.data(), numbers.bytes());
      const TensorView whole(from.data(), dtype, s.source_rows, s.width, s.source_stride);
      const TensorView out(to.data(), dtype, count, columns, s.out_stride);
      device.model_operators().gather_rows({.source = whole.column_range(s.first_column, columns),
                                            .rows = numbers.view(DType::i32, 1, count),
                                            .out = out});
      device.copy_to_host(got.data(), to.data(), to.bytes());
      CHECK(got == want);
    }
}

}  // namespace cbtm
