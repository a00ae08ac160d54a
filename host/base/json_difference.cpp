#include "cbtm/base/json_difference.h"

#include <fmt/format.h>

namespace cbtm {
namespace {

void add_differences(const Json& before, const Json& now, ShownValues values, std::string& text) {
  const auto add = [&](const std::string& words) { text += (text.empty() ? "" : "; ") + words; };
  for (const auto& [name, value] : now.items()) {
    const auto old = before.find(name);
    if (old == before.end())
      add(fmt::format("{} is new", name));
    else if (old->is_object() && value.is_object())
      add_differences(*old, value, values, text);
    else if (*old != value)
      add(values == ShownValues::both ? fmt::format("{} was {}, is {}", name, old->dump(), value.dump())
                                      : fmt::format("{} has changed", name));
  }
  for (const auto& [name, value] : before.items())
    if (!now.contains(name)) add(fmt::format("{} is gone", name));
}

}  // namespace

std::string json_difference(const Json& before, const Json& now, ShownValues values) {
  static const Json kEmpty = Json::object();
  std::string text;
  add_differences(before.is_object() ? before : kEmpty, now.is_object() ? now : kEmpty, values, text);
  return text;
}

}  // namespace cbtm
