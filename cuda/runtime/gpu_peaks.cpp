#include "runtime/gpu_peaks.h"

#include <cuda_runtime.h>

namespace cbtm::cuda {
namespace {

struct Datasheet {
  std::string_view name;  ///< part of the driver's name; a name comes before those that are part of it
  double teraflops;
};

// Without sparsity; GeForce: with float32 accumulation.
constexpr Datasheet kDatasheets[] = {
    {"H100 PCIe", 756},  {"H100 NVL", 835}, {"H100", 989},
    {"GH200", 989},      {"H200", 989},     {"GB200", 2500},
    {"B200", 2250},      {"GB300", 2500},   {"B300", 2250},
    {"A100", 312},       {"A30", 165},      {"A40", 149.7},
    {"A10G", 70},        {"A10", 125},      {"L40S", 362},
    {"L40", 181},        {"L4", 121},       {"RTX PRO 6000", 503.8},
    {"RTX A6000", 155},  {"RTX 3090", 71},  {"RTX 4090", 165},
    {"RTX 5090", 209.5}, {"Tesla T4", 65},
};

}  // namespace

double datasheet_flops(std::string_view name) {
  for (const Datasheet& sheet : kDatasheets)
    if (name.find(sheet.name) != std::string_view::npos) return sheet.teraflops * 1e12;
  return 0;
}

double memory_bytes_per_second(int device_index) {
  int kilohertz = 0, bits = 0;
  if (cudaDeviceGetAttribute(&kilohertz, cudaDevAttrMemoryClockRate, device_index) != cudaSuccess ||
      cudaDeviceGetAttribute(&bits, cudaDevAttrGlobalMemoryBusWidth, device_index) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return 2.0 * kilohertz * 1e3 * bits / 8;  // two transfers a clock
}

}  // namespace cbtm::cuda
