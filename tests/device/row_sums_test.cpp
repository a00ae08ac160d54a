// Bits that do not depend on the rows beside a row.

#include "tests/device/operands.h"
#include "tests/device/row_sums_check.h"

namespace cbtm {

TEST_CASE("linear layers: a row has the same bits whatever rows are beside it, decoding and in prompts") {
  REQUIRE(device_under_test().model_operators().prompt_rows_independent());
  row_sums::check_linear(device_under_test(), DType::f32, RowSums::decode);
  row_sums::check_linear(device_under_test(), DType::f32, RowSums::prompt);
}

TEST_CASE("cached attention of decoding: a token has the same bits whatever is beside it") {
  row_sums::check_decoding_attention(device_under_test(), DType::f32);
}

}  // namespace cbtm
