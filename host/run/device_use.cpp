#include "cbtm/run/device_use.h"

namespace cbtm {
namespace {

constexpr const char* kKey = "computed_on";

}  // namespace

void add_device_use(Json& summary, const DeviceUse& use) {
  summary[kKey] = {{"devices", use.devices}, {"device", use.device}, {"device_seconds", use.device_seconds}};
}

DeviceUse parse_device_use(const Json& summary, const std::string& file) {
  constexpr int64_t kDevicesMax = int64_t{1} << 20;
  constexpr double kSecondsMax = 1e15;
  const JsonReader read(summary, file);
  if (!read.has(kKey)) return {};
  const JsonReader use = read.object(kKey);
  return {.devices = use.integer("devices", 1, kDevicesMax),
          .device = use.text_or("device", ""),
          .device_seconds = use.number_or("device_seconds", std::numeric_limits<double>::quiet_NaN(), 0, kSecondsMax)};
}

}  // namespace cbtm
