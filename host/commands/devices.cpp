#include <fmt/format.h>

#include "cbtm/base/error.h"
#include "cbtm/base/memory.h"
#include "cbtm/device/open_device.h"
#include "commands/command_line.h"
#include "commands/commands.h"

namespace cbtm {

int run_devices(int argc, char** argv) {
  CommandLine line("devices", "list the devices of this machine", {"cbtm devices"});
  if (!line.parse(argc, argv)) return kExitSuccess;
  Json devices = Json::array();
  for (const DeviceInfo& device : list_devices()) {
    const bool usable = device.problem.empty();
    fmt::print(
        "{:<7} {}{}{}\n", device.name, device.description, usable || device.description.empty() ? "" : ": ",
        usable ? fmt::format(", {} free", format_bytes(device.free_bytes)) : "cannot be used: " + device.problem);
    Json entry = {{"name", device.name}, {"description", device.description}, {"usable", usable}};
    if (usable)
      entry["free_bytes"] = device.free_bytes;
    else
      entry["problem"] = device.problem;
    devices.push_back(entry);
  }
  line.write_json({{"devices", devices}});
  return kExitSuccess;
}

}  // namespace cbtm
