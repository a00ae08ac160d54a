#include <cstring>

#include "cbtm/base/threads.h"
#include "cpu/model_operators.h"

namespace cbtm {

void CpuModelOperators::embedding_forward(const EmbeddingForward& arguments) {
  const TensorView out = arguments.out;
  const int64_t width = out.columns;
  const auto add_row = [&](ConstTensorView table, int32_t row, float* target, bool fresh, std::vector<float>& widened) {
    CBTM_ASSERT(row >= 0 && row < table.rows, "ids are checked on the host before the device sees them");
    const float* source = cpu::widened_rows(kernels_, table, row, 1, widened.data());
    if (fresh) {
      std::memcpy(target, source, static_cast<size_t>(width) * 4);
    } else {
      kernels_.add(source, width, target);
    }
  };
  const ConstTensorView scales = arguments.token_table_scales;
  CBTM_ASSERT(!scales || !arguments.position_table, "positions are added to a quantised table's rows by a second call");
  parallel_ranges(out.rows, static_cast<double>(width) * 0.3, [&](int64_t begin, int64_t end) {
    std::vector<float> widened(static_cast<size_t>(width));
    for (int64_t row = begin; row < end; ++row) {
      float* target = out.as<float>() + row * out.row_stride;
      bool fresh = !arguments.accumulate;
      if (arguments.token_table) {
        const int32_t id = arguments.ids.as<int32_t>()[row];
        if (scales) {
          CBTM_ASSERT(fresh, "a quantised table's rows are not added to anything");
          add_row(arguments.token_table, id, target, true, widened);
          kernels_.scale(scales.as<float>()[id], target, width, target);
        } else {
          add_row(arguments.token_table, id, target, fresh, widened);
        }
        fresh = false;
      }
      if (arguments.position_table)
        add_row(arguments.position_table, arguments.positions.as<int32_t>()[row], target, fresh, widened);
    }
  });
}

int64_t CpuModelOperators::scratch_bytes(const EmbeddingBackward&) const { return bytes_with_products(0); }

void CpuModelOperators::embedding_backward(const EmbeddingBackward& arguments) {
  const ConstTensorView gradient = arguments.out_gradient;
  // Threads share columns, not rows: every table element is then summed by one thread, in row order.
  parallel_ranges(gradient.columns, static_cast<double>(gradient.rows) * 0.5, [&](int64_t begin, int64_t end) {
    for (int64_t row = 0; row < gradient.rows; ++row) {
      const float* source = gradient.as<float>() + row * gradient.row_stride + begin;
      if (const TensorView table = arguments.token_table_gradient)
        kernels_.add(source, end - begin,
                     table.as<float>() + arguments.ids.as<int32_t>()[row] * table.row_stride + begin);
      if (const TensorView table = arguments.position_table_gradient)
        kernels_.add(source, end - begin,
                     table.as<float>() + arguments.positions.as<int32_t>()[row] * table.row_stride + begin);
    }
  });
}

}  // namespace cbtm
