#include "report/json_lookup.h"

#include <cmath>

namespace cbtm::report {
namespace {

/// Larger is damage, and what is made of it would overflow.
constexpr double kNumberMax = 1e18;

}  // namespace

const Json& find(const Json& json, JsonPath path) {
  static const Json kNull;
  const Json* place = &json;
  for (const std::string_view name : path) {
    if (!place->is_object()) return kNull;
    const auto found = place->find(name);
    if (found == place->end()) return kNull;
    place = &*found;
  }
  return *place;
}

double number(const Json& json, JsonPath path) {
  const Json& value = find(json, path);
  if (!value.is_number()) return NAN;
  const auto result = value.get<double>();
  return std::abs(result) <= kNumberMax ? result : NAN;
}

std::string text(const Json& json, JsonPath path) {
  const Json& value = find(json, path);
  if (value.is_null()) return "";
  return value.is_string() ? value.get<std::string>() : value.dump();
}

}  // namespace cbtm::report
