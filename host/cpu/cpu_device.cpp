#include "cpu/cpu_device.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>

#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/error.h"
#include "cbtm/base/memory.h"
#include "cbtm/base/threads.h"
#include "cpu/copy.h"
#include "cpu/matrix_product.h"

namespace cbtm {

CpuDevice::CpuDevice() : kernels_(cpu::kernels()) {}

std::unique_ptr<Device> make_cpu_device() { return std::make_unique<CpuDevice>(); }

std::string CpuDevice::description() const {
  return fmt::format("cpu ({} thread{}, {})", thread_count(), thread_count() == 1 ? "" : "s", kernels_.name);
}

double CpuDevice::peak_flops() {
  if (peak_flops_ == 0) {
    constexpr int64_t kSize = 768;
    const std::vector<float> a(kSize * kSize, 0.5f);
    std::vector<float> c(kSize * kSize);
    double best_seconds = 1e9;
    for (int trial = 0; trial < 6; ++trial) {
      const auto start = std::chrono::steady_clock::now();
      cpu::multiply_matrices(kernels_,
                             {kSize, kSize, kSize, a.data(), kSize, false, a.data(), kSize, true, c.data(), kSize});
      const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
      best_seconds = std::min(best_seconds, taken.count());
    }
    peak_flops_ = 2.0 * kSize * kSize * kSize / best_seconds;
  }
  return peak_flops_;
}

int64_t CpuDevice::free_bytes() const { return available_memory_bytes(); }

void* CpuDevice::allocate_bytes(int64_t bytes, std::string_view purpose) {
  // Large buffers in whole huge pages, and asked for as such: fewer misses of the address cache.
  constexpr int64_t kHugePage = int64_t{2} << 20;
  const int64_t alignment = bytes >= 4 * kHugePage ? kHugePage : 64;
  const int64_t rounded = round_up(std::max<int64_t>(bytes, 1), alignment);
  // Small ones are not worth asking the system first.
  constexpr int64_t kSmall = int64_t{1} << 20;
  void* data = rounded > kSmall && rounded > free_bytes() ? nullptr : std::aligned_alloc(alignment, rounded);
  if (data == nullptr)
    fail("{} needs {} of memory, but only {} are free; lower --micro-batch, --sequence or --memory", purpose,
         format_bytes(bytes), format_bytes(free_bytes()));
  if (alignment == kHugePage) madvise(data, static_cast<size_t>(rounded), MADV_HUGEPAGE);  // a hint: may be refused
  return data;
}

void CpuDevice::release_bytes(void* data, int64_t) noexcept { std::free(data); }

// Nothing may come from nowhere: memcpy forbids null pointers even where there is nothing to copy.
void CpuDevice::copy_to_device(void* destination, const void* host_source, int64_t bytes) {
  if (bytes > 0) std::memcpy(destination, host_source, static_cast<size_t>(bytes));
}
void CpuDevice::copy_to_host(void* host_destination, const void* source, int64_t bytes) {
  if (bytes > 0) std::memcpy(host_destination, source, static_cast<size_t>(bytes));
}

void CpuDevice::copy(TensorView destination, ConstTensorView source) { cpu::copy(destination, source); }

void CpuDevice::fill_zero(TensorView destination) { cpu::fill_zero(destination); }

}  // namespace cbtm
