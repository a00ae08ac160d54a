#include <cstring>

#include "cbtm/base/threads.h"
#include "cpu/model_operators.h"

namespace cbtm {

void CpuModelOperators::gather_rows(const GatherRows& arguments) {
  const ConstTensorView source = arguments.source;
  const TensorView out = arguments.out;
  CBTM_ASSERT(out.dtype == source.dtype && out.columns == source.columns, "rows are copied as they are");
  CBTM_ASSERT(out.rows == arguments.rows.columns, "a number for each row");
  const int64_t item = dtype_bytes(source.dtype);
  parallel_ranges(out.rows, static_cast<double>(out.columns * item) * 0.1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int32_t from = arguments.rows.as<int32_t>()[row];
      CBTM_ASSERT(from >= 0 && from < source.rows, "rows are checked on the host before the device sees them");
      std::memcpy(static_cast<char*>(out.data) + row * out.row_stride * item,
                  static_cast<const char*>(source.data) + from * source.row_stride * item,
                  static_cast<size_t>(out.columns * item));
    }
  });
}

}  // namespace cbtm
