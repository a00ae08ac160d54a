#include "cbtm/device/open_device.h"

#include <fmt/format.h>

#include <charconv>

#include "cbtm/base/error.h"
#include "cbtm/base/memory.h"
#include "cbtm/base/progress.h"
#include "cbtm/device/profile_range.h"
#ifdef CBTM_HAS_CUDA
#include "cuda_device.h"
#endif

namespace cbtm {

namespace {

#ifdef CBTM_HAS_CUDA
/// N of "cuda:N", 0 for "cuda".
int cuda_index(std::string_view name) {
  if (name == "cuda") return 0;
  const std::string_view digits = name.substr(5);
  int index = -1;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
  if (error != std::errc() || end != digits.data() + digits.size() || index < 0)
    fail_usage("--device {}: use cuda or cuda:N, N being the number of a GPU (cbtm devices lists them)", name);
  return index;
}

/// The first GPU that can be used; or null, and why there is none.
std::unique_ptr<Device> best_cuda_device(std::string& why_not) {
  const CudaSystem system = cuda_system();
  why_not = system.problem;
  for (const CudaDeviceInfo& info : system.devices) {
    if (info.problem.empty()) return make_cuda_device(info.index);
    if (why_not.empty()) why_not = fmt::format("cuda:{} ({}) cannot be used: {}", info.index, info.name, info.problem);
  }
  return nullptr;
}
#endif

std::unique_ptr<Device> open_named(std::string_view name) {
  if (name == "cpu") return make_cpu_device();
  if (name == "auto") {
    std::unique_ptr<Device> device;
    std::string why_not;
#ifdef CBTM_HAS_CUDA
    device = best_cuda_device(why_not);
#endif
    if (device == nullptr) device = make_cpu_device();
    say("device: " + device->description() + (why_not.empty() ? "" : "; " + why_not));
    return device;
  }
  if (name == "cuda" || name.starts_with("cuda:")) {
#ifdef CBTM_HAS_CUDA
    return make_cuda_device(cuda_index(name));
#else
    fail("--device {}: this build has no CUDA device; build with make cuda, or use --device cpu", name);
#endif
  }
  fail_usage("--device {}: unknown device; use auto, cpu, cuda or cuda:N", name);
}

}  // namespace

std::unique_ptr<Device> open_device(std::string_view name, std::string_view profile) {
  std::unique_ptr<Device> device = open_named(name);
  if (!profile.empty()) device->profile(parse_profile_range(profile));
  return device;
}

std::vector<DeviceInfo> list_devices() {
  const std::unique_ptr<Device> cpu = make_cpu_device();
  std::vector<DeviceInfo> devices = {
      {.name = "cpu", .description = cpu->description(), .free_bytes = cpu->free_bytes(), .problem = {}}};
#ifdef CBTM_HAS_CUDA
  const CudaSystem system = cuda_system();
  if (!system.problem.empty())
    devices.push_back({.name = "cuda", .description = {}, .free_bytes = 0, .problem = system.problem});
  for (const CudaDeviceInfo& info : system.devices)
    devices.push_back(
        {.name = fmt::format("cuda:{}", info.index),
         .description = fmt::format("{}, compute capability {}.{}, {} multiprocessors, {}, driver for CUDA {}",
                                    info.name, info.compute_capability / 10, info.compute_capability % 10,
                                    info.multiprocessors, format_bytes(info.memory_bytes), system.driver),
         .free_bytes = info.free_bytes,
         .problem = info.problem});
#else
  devices.push_back(
      {.name = "cuda", .description = {}, .free_bytes = 0, .problem = "not in this build; build with make cuda"});
#endif
  return devices;
}

}  // namespace cbtm
