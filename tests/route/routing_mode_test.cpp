#include "cbtm/route/routing_mode.h"

#include <doctest/doctest.h>

#include <string>

#include "cbtm/base/error.h"

namespace cbtm {
namespace {

TEST_CASE("a routing mode is a whole word or a prefix and a whole number") {
  CHECK(parse_routing_mode("token").schedule == RoutingSchedule::token);
  CHECK(parse_routing_mode("lagged").schedule == RoutingSchedule::lagged);
  CHECK(parse_routing_mode("prompt").schedule == RoutingSchedule::prompt);
  CHECK(parse_routing_mode("every:16").interval == 16);
  CHECK(parse_routing_mode("every:9223372036854775807").schedule == RoutingSchedule::every);
  CHECK(parse_routing_mode("fraction:0.5").fraction == 0.5);
  CHECK(parse_routing_mode("fraction:1").schedule == RoutingSchedule::fraction);
  CHECK(parse_routing_mode("fraction:1e-3").fraction == 1e-3);
  for (const char* text : {"",
                           "tokens",
                           "every",
                           "every:",
                           "every:0",
                           "every:-3",
                           "every:5x",
                           "every: 5",
                           "every:+5",
                           "every:5.0",
                           "every:99999999999999999999",
                           "every:0x10",
                           "fraction:",
                           "fraction:0",
                           "fraction:0,5",
                           "fraction:0.5x",
                           "fraction:1.01",
                           "fraction:-0.5",
                           "fraction:nan",
                           "fraction:inf",
                           "fraction:1e-999",
                           "fraction: 0.5"}) {
    CAPTURE(text);
    try {
      parse_routing_mode(text);
      FAIL("taken");
    } catch (const Error& error) {
      CHECK(error.exit_code() == kExitUsage);
      CHECK(std::string(error.what()).find(std::string("--routing ") + text + ":") != std::string::npos);
    }
  }
}

}  // namespace
}  // namespace cbtm
