#include "cbtm/device/open_device.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <utility>

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
/// A whole number from `text` on, which it is taken off; -1 if there is none.
int take_number(std::string_view& text) {
  int number = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || number < 0) return -1;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return number;
}

/// The numbers of the GPUs that "cuda", "cuda:N", "cuda:0,2-4" or "cuda:all" name.
std::vector<int> cuda_indices(std::string_view name) {
  if (name == "cuda") return {0};
  std::vector<int> indices;
  if (name == "cuda:all") {
    for (int index = 0; index < cuda_system().device_count; ++index) indices.push_back(index);
    return indices.empty() ? std::vector<int>{0} : indices;  // none: opening the first says why
  }
  std::string_view rest = name.substr(5);
  bool good = true;
  while (good) {
    const int first = take_number(rest);
    int last = first;
    if (rest.starts_with('-')) {
      rest.remove_prefix(1);
      last = take_number(rest);
    }
    good = first >= 0 && last >= first && last < 1024;
    for (int index = first; good && index <= last; ++index) {
      if (std::ranges::find(indices, index) != indices.end()) fail_usage("--device {}: GPU {} twice", name, index);
      indices.push_back(index);
    }
    if (!rest.starts_with(',')) break;
    rest.remove_prefix(1);
  }
  if (!good || !rest.empty())
    fail_usage(
        "--device {}: use cuda, cuda:N, cuda:0,1 or cuda:0-3 or cuda:all, N being the number of a GPU (cbtm devices "
        "lists them)",
        name);
  return indices;
}

/// The first GPU that can be used; or null, and why there is none.
std::unique_ptr<Device> best_cuda_device(std::string& why_not) {
  const CudaSystem system = cuda_system();
  why_not = system.problem;
  for (int index = 0; index < system.device_count; ++index) {
    const CudaDeviceInfo info = cuda_device_info(index);
    if (info.problem.empty()) return make_cuda_device(index);
    if (why_not.empty()) why_not = fmt::format("cuda:{} ({}) cannot be used: {}", info.index, info.name, info.problem);
  }
  return nullptr;
}
#endif

std::vector<std::unique_ptr<Device>> open_named(std::string_view name) {
  std::vector<std::unique_ptr<Device>> devices;
  if (name == "cpu") {
    devices.push_back(make_cpu_device());
    return devices;
  }
  if (name == "auto") {
    std::unique_ptr<Device> device;
    std::string why_not;
#ifdef CBTM_HAS_CUDA
    device = best_cuda_device(why_not);
#endif
    if (device == nullptr) device = make_cpu_device();
    say("device: " + device->description() + (why_not.empty() ? "" : "; " + why_not));
    devices.push_back(std::move(device));
    return devices;
  }
  if (name == "cuda" || name.starts_with("cuda:")) {
#ifdef CBTM_HAS_CUDA
    for (const int index : cuda_indices(name)) devices.push_back(make_cuda_device(index));
    return devices;
#else
    fail("--device {}: this build has no CUDA device; build with make cuda, or use --device cpu", name);
#endif
  }
  fail_usage("--device {}: unknown device; use auto, cpu, cuda or cuda:N", name);
}

}  // namespace

DeviceList::DeviceList(std::vector<std::unique_ptr<Device>> devices) : owned_(std::move(devices)) {
  for (const std::unique_ptr<Device>& device : owned_) devices_.push_back(device.get());
  if (devices_.size() > 1) front().bind_thread();
}

DeviceList open_devices(std::string_view name, std::string_view profile) {
  DeviceList devices(open_named(name));
  if (!profile.empty()) devices.front().profile(parse_profile_range(profile));
  return devices;
}

std::unique_ptr<Device> open_device(std::string_view name, std::string_view profile) {
  std::vector<std::unique_ptr<Device>> devices = open_named(name);
  if (devices.size() > 1)
    fail_usage("--device {}: only trainings (run, train_seed, train_expert) use several GPUs; name one", name);
  if (!profile.empty()) devices.front()->profile(parse_profile_range(profile));
  return std::move(devices.front());
}

std::vector<DeviceInfo> list_devices() {
  const std::unique_ptr<Device> cpu = make_cpu_device();
  std::vector<DeviceInfo> devices = {
      {.name = "cpu", .description = cpu->description(), .free_bytes = cpu->free_bytes(), .problem = {}}};
#ifdef CBTM_HAS_CUDA
  const CudaSystem system = cuda_system();
  if (!system.problem.empty())
    devices.push_back({.name = "cuda", .description = {}, .free_bytes = 0, .problem = system.problem});
  for (int index = 0; index < system.device_count; ++index) {
    const CudaDeviceInfo info = cuda_device_info(index);
    devices.push_back(
        {.name = fmt::format("cuda:{}", info.index),
         .description = fmt::format("{}, compute capability {}.{}, {} multiprocessors, {}, driver for CUDA {}",
                                    info.name, info.compute_capability / 10, info.compute_capability % 10,
                                    info.multiprocessors, format_bytes(info.memory_bytes), system.driver),
         .free_bytes = info.free_bytes,
         .problem = info.problem});
  }
#else
  devices.push_back(
      {.name = "cuda", .description = {}, .free_bytes = 0, .problem = "not in this build; build with make cuda"});
#endif
  return devices;
}

}  // namespace cbtm
