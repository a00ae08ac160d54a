#include "cbtm/base/half_types.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

namespace cbtm {
namespace {

/// The nearest of all values of `Half` by brute force comparison of neighbours, ties to the even pattern.
template <typename Half, typename Narrow>
void check_round_trip(Narrow narrow, uint32_t infinity_bits) {
  for (uint32_t pattern = 0; pattern <= 0xffff; ++pattern) {
    const float wide = to_float(Half{static_cast<uint16_t>(pattern)});
    if (std::isnan(wide)) {
      CHECK(std::isnan(to_float(narrow(wide))));
      continue;
    }
    REQUIRE(narrow(wide).bits == pattern);
    if ((pattern & 0x7fff) + 1 >= infinity_bits) continue;
    const float next = to_float(Half{static_cast<uint16_t>(pattern + 1)});
    const float middle = static_cast<float>((static_cast<double>(wide) + next) / 2);
    const uint32_t even = (pattern & 1) == 0 ? pattern : pattern + 1;
    REQUIRE(narrow(middle).bits == even);
    REQUIRE(narrow(std::nextafter(middle, wide)).bits == pattern);
    REQUIRE(narrow(std::nextafter(middle, next)).bits == pattern + 1);
  }
}

TEST_CASE("bfloat16: every value round-trips, midpoints go to even") {
  check_round_trip<bf16>(to_bf16, 0x7f80);
  CHECK(to_bf16(std::numeric_limits<float>::max()).bits == 0x7f80);
}

TEST_CASE("float16: every value round-trips, subnormals included, midpoints go to even") {
  check_round_trip<f16>(to_f16, 0x7c00);
  CHECK(to_f16(65519.996f).bits == 0x7bff);
  CHECK(to_f16(65520.0f).bits == 0x7c00);
  CHECK(to_f16(-1e30f).bits == 0xfc00);
  CHECK(to_float(f16{1}) == 0x1p-24f);
}

}  // namespace
}  // namespace cbtm
