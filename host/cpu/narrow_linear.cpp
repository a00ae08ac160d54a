#include "cpu/narrow_linear.h"

#include <algorithm>

#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/threads.h"

namespace cbtm::cpu {
namespace {

constexpr int64_t kOperandBytes = int64_t{1} << 20;
constexpr int64_t kAlignment = 64;
/// To judge whether other threads are worth waking.
constexpr double kPreparedPerNanosecond = 2, kMultiplyAddsPerNanosecond = 100, kWeightBytesPerNanosecond = 10;

char* aligned(float* scratch) {
  return reinterpret_cast<char*>(round_up(static_cast<int64_t>(reinterpret_cast<intptr_t>(scratch)), kAlignment));
}

}  // namespace

const NarrowProduct* narrow_product(const NarrowProducts& products, const LinearForward& arguments) {
  if (arguments.int8_weights())
    return products.int8_rows && arguments.input.rows > products.few_rows ? &products.int8_rows : &products.int8;
  return arguments.weight.dtype == DType::bf16 && products.bf16 ? &products.bf16 : nullptr;
}

int64_t narrow_block_rows(const NarrowProduct& product, const LinearForward& arguments) {
  const int64_t group_bytes = product.operand_bytes(kPreparedRows, arguments.input.columns);
  const int64_t rows = std::max<int64_t>(2, kOperandBytes / group_bytes) * kPreparedRows;
  return std::min(rows, round_up(arguments.input.rows, kPreparedRows));
}

int64_t narrow_scratch(const NarrowProduct& product, const LinearForward& arguments) {
  const int64_t rows = narrow_block_rows(product, arguments);
  return ceil_divide(product.operand_bytes(rows, arguments.input.columns) + kAlignment, int64_t{4});
}

void multiply_narrow(const NarrowProduct& product, const LinearForward& arguments, int64_t first_row, int64_t count,
                     float* scratch) {
  const ConstTensorView input = arguments.input, weight = arguments.weight;
  const int64_t in = input.columns, out = weight.rows;
  char* const operand = aligned(scratch);
  const double preparation = static_cast<double>(kPreparedRows * in) / kPreparedPerNanosecond;
  parallel_ranges(ceil_divide(count, kPreparedRows), preparation, [&](int64_t begin, int64_t end) {
    const int64_t row = begin * kPreparedRows, rows = std::min(end * kPreparedRows, count) - row;
    product.prepare(input.as<float>() + (first_row + row) * input.row_stride, input.row_stride, rows, in,
                    operand + product.operand_bytes(row, in));
  });
  const auto grain = static_cast<double>(kNarrowOutputs * in);
  const double cost = std::max(grain * static_cast<double>(count) / kMultiplyAddsPerNanosecond,
                               grain * static_cast<double>(dtype_bytes(weight.dtype)) / kWeightBytesPerNanosecond);
  parallel_ranges(ceil_divide(out, kNarrowOutputs), cost, [&](int64_t begin, int64_t end) {
    product.multiply({.operand = operand,
                      .rows = count,
                      .in = in,
                      .weight = weight.data,
                      .weight_stride = weight.row_stride,
                      .scales = arguments.weight_scales ? arguments.weight_scales.as<float>() : nullptr,
                      .begin = begin * kNarrowOutputs,
                      .end = std::min(end * kNarrowOutputs, out),
                      .out = arguments.output.as<float>() + first_row * arguments.output.row_stride,
                      .out_stride = arguments.output.row_stride});
  });
}

}  // namespace cbtm::cpu
