#include "cbtm/base/numbers.h"

#include <doctest/doctest.h>

namespace cbtm {
namespace {

TEST_CASE("numbers are read whole or not at all") {
  CHECK(parse_number("0.006") == 0.006);
  CHECK(parse_number("6e-3") == 0.006);
  CHECK(parse_number("+1") == 1.0);
  CHECK(parse_number("-1.5") == -1.5);
  CHECK(parse_number("1e-400") == 0.0);
  for (const char* text : {"", " 1", "1 ", "0,006", "5%", "1e-3x", "0x1p-8", "inf", "nan", "1e400", "+-1", "+", "-",
                           ".", "1e", "--1", "1.2.3"}) {
    CAPTURE(text);
    CHECK_FALSE(parse_number(text).has_value());
  }
}

TEST_CASE("whole numbers may be written as people write counts") {
  CHECK(parse_integer("2048") == 2048);
  CHECK(parse_integer("-1") == -1);
  CHECK(parse_integer("1e6") == 1'000'000);
  CHECK(parse_integer("1M") == 1'000'000);
  CHECK(parse_integer("1.1M") == 1'100'000);
  CHECK(parse_integer("100k") == 100'000);
  CHECK(parse_integer("2.5G") == 2'500'000'000);
  CHECK(parse_integer("9223372036854775807") == INT64_MAX);
  for (const char* text : {"", "1.5", "1,000", "1_000", "1e-3", "M", "1Mi", "1MB", "9223372036854775808", "1e30",
                           "0x10", "1k5", "5%", " 1"}) {
    CAPTURE(text);
    CHECK_FALSE(parse_integer(text).has_value());
  }
  CHECK(parse_unsigned("18446744073709551615") == UINT64_MAX);
  for (const char* text : {"", "-1", "18446744073709551616", "1e3"}) CHECK_FALSE(parse_unsigned(text).has_value());
}

}  // namespace
}  // namespace cbtm
