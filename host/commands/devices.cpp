#include <fmt/format.h>

#include "cbtm/base/error.h"
#include "cbtm/base/memory.h"
#include "cbtm/device/device.h"
#include "commands/command_line.h"
#include "commands/commands.h"

namespace cbtm {

int run_devices(int argc, char** argv) {
  CommandLine line("devices", "list the devices of this machine", {"cbtm devices"});
  if (!line.parse(argc, argv)) return kExitSuccess;
  const std::unique_ptr<Device> cpu = make_cpu_device();
  fmt::print("cpu     {}, {} free\n", cpu->description(), format_bytes(cpu->free_bytes()));
  fmt::print("cuda    not in this build\n");
  line.write_json({{"devices", {{{"name", "cpu"}, {"description", cpu->description()}}}}});
  return kExitSuccess;
}

}  // namespace cbtm
