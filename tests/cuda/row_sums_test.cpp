// Bits of decoding that do not depend on the rows beside a row.

#include "tests/cuda/attention_operands.h"
#include "tests/cuda/half_precision.h"
#include "tests/device/row_sums_check.h"

namespace cbtm {

TEST_CASE("linear layers of decoding: a row has the same bits whatever rows are beside it") {
  for (const DType type : {DType::f32, half_type()}) row_sums::check_linear(cuda_device(), type, RowSums::decode);
}

TEST_CASE("cached attention of decoding: a token has the same bits whatever is beside it") {
  for (const DType type : {DType::f32, half_type()}) row_sums::check_decoding_attention(cuda_device(), type);
}

}  // namespace cbtm
