#include "cbtm/base/philox.h"

#include <doctest/doctest.h>

namespace cbtm {
namespace {

TEST_CASE("Philox4x32-10 gives the published answers") {
  // Random123's known-answer vectors: zeros, ones, digits of pi.
  const PhiloxCounter zeros = philox({{0, 0, 0, 0}}, 0);
  CHECK(zeros.word[0] == 0x6627e8d5);
  CHECK(zeros.word[3] == 0x9b00dbd8);
  const PhiloxCounter pi = philox({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0x299f31d0a4093822);
  CHECK(pi.word[0] == 0xd16cfe09);
  CHECK(pi.word[1] == 0x94fdcceb);
  CHECK(pi.word[2] == 0x5001e420);
  CHECK(pi.word[3] == 0x24126ea1);
}

TEST_CASE("Philox4x32-7 gives the published answers, and its bytes are uniform") {
  const PhiloxCounter zeros = philox<7>({{0, 0, 0, 0}}, 0);
  CHECK(zeros.word[0] == 0x5f6fb709);
  CHECK(zeros.word[3] == 0x4f730a48);
  const PhiloxCounter pi = philox<7>({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0x299f31d0a4093822);
  CHECK(pi.word[0] == 0x4dfccaba);
  CHECK(pi.word[1] == 0x190a87f0);
  CHECK(pi.word[2] == 0xc47362ba);
  CHECK(pi.word[3] == 0xb6b5242a);

  // Dropout's counters: neighbouring groups of neighbouring sites and steps. Each of the sixteen bytes has 65,536
  // draws: chi-square of 255 degrees of freedom lies within 6 standard deviations, 255 ± 6 √510, for all sixteen.
  int counts[16][256] = {};
  for (uint32_t group = 0; group < 4096; ++group)
    for (uint32_t place = 0; place < 16; ++place) {
      const PhiloxCounter words = philox<7>({{group, 0, place % 4, place / 4}}, 1234);
      for (int byte = 0; byte < 16; ++byte) ++counts[byte][(words.word[byte / 4] >> (8 * (byte % 4))) & 255];
    }
  for (const auto& of_byte : counts) {
    double chi_square = 0;
    for (const int count : of_byte) chi_square += (count - 256.0) * (count - 256.0) / 256;
    CHECK(chi_square > 255 - 136);
    CHECK(chi_square < 255 + 136);
  }
}

TEST_CASE("a stream goes on from an index as if it had never stopped") {
  PhiloxStream whole(7, 3);
  for (int i = 0; i < 11; ++i) whole.next_bits();
  PhiloxStream resumed(7, 3, whole.index());
  for (int i = 0; i < 9; ++i) CHECK(whole.next_bits() == resumed.next_bits());
}

TEST_CASE("bounded draws and normals have the right moments") {
  PhiloxStream stream(1, 2);
  double sum = 0, square_sum = 0;
  int counts[7] = {};
  constexpr int kDraws = 70'000;
  for (int i = 0; i < kDraws; ++i) {
    const double value = stream.next_normal();
    sum += value;
    square_sum += value * value;
    ++counts[stream.next_below(7)];
  }
  CHECK(sum / kDraws == doctest::Approx(0).epsilon(0.015));
  CHECK(square_sum / kDraws == doctest::Approx(1).epsilon(0.02));
  for (const int count : counts) CHECK(count == doctest::Approx(kDraws / 7.0).epsilon(0.05));
}

}  // namespace
}  // namespace cbtm
