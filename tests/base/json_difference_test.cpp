// What differs between two JSON objects, in words.

#include "cbtm/base/json_difference.h"

#include <doctest/doctest.h>

namespace cbtm {
namespace {

TEST_CASE("a difference names each member that is new, gone or another, at any depth") {
  const Json before = {{"rate", 0.5}, {"gone", 1}, {"same", {1, 2}}, {"deep", {{"a", 1}, {"b", "x"}}}, {"kind", 1}};
  const Json now = {
      {"rate", 0.25}, {"new", 1}, {"same", {1, 2}}, {"deep", {{"a", 1}, {"b", "y"}}}, {"kind", {{"a", 1}}}};
  CHECK(json_difference(before, before, ShownValues::both).empty());
  CHECK(json_difference(before, now, ShownValues::both) ==
        "b was \"x\", is \"y\"; kind was 1, is {\"a\":1}; new is new; rate was 0.5, is 0.25; gone is gone");
  CHECK(json_difference(before, now, ShownValues::none) ==
        "b has changed; kind has changed; new is new; rate has changed; gone is gone");
}

TEST_CASE("what is no object has no members") {
  CHECK(json_difference(nullptr, {{"a", 1}}, ShownValues::both) == "a is new");
  CHECK(json_difference({{"a", 1}}, Json::array(), ShownValues::both) == "a is gone");
  CHECK(json_difference(nullptr, nullptr, ShownValues::both).empty());
}

}  // namespace
}  // namespace cbtm
