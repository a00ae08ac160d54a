#include "cpu/cpu_device.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>

#include "cbtm/base/error.h"
#include "cbtm/base/memory.h"
#include "cbtm/base/threads.h"
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
  const int64_t rounded = (std::max<int64_t>(bytes, 1) + alignment - 1) / alignment * alignment;
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

float* CpuDevice::scratch(int slot, int64_t count) {
  std::vector<float>& buffer = scratch_[slot];
  if (static_cast<int64_t>(buffer.size()) < count) {
    buffer.clear();
    buffer.resize(static_cast<size_t>(count));
  }
  return buffer.data();
}

// Nothing may come from nowhere: memcpy forbids null pointers even where there is nothing to copy.
void CpuDevice::copy_to_device(void* destination, const void* host_source, int64_t bytes) {
  if (bytes > 0) std::memcpy(destination, host_source, static_cast<size_t>(bytes));
}
void CpuDevice::copy_to_host(void* host_destination, const void* source, int64_t bytes) {
  if (bytes > 0) std::memcpy(host_destination, source, static_cast<size_t>(bytes));
}

namespace {

template <typename Target, typename Source>
void convert_rows(TensorView destination, ConstTensorView source) {
  for (int64_t row = 0; row < source.rows; ++row) {
    const Source* from = source.as<Source>() + row * source.row_stride;
    Target* to = destination.as<Target>() + row * destination.row_stride;
    for (int64_t column = 0; column < source.columns; ++column) {
      const float value = to_float(from[column]);
      if constexpr (std::is_same_v<Target, float>) to[column] = value;
      if constexpr (std::is_same_v<Target, bf16>) to[column] = to_bf16(value);
      if constexpr (std::is_same_v<Target, f16>) to[column] = to_f16(value);
    }
  }
}

template <typename Source>
void convert_from(TensorView destination, ConstTensorView source) {
  switch (destination.dtype) {
    case DType::f32: return convert_rows<float, Source>(destination, source);
    case DType::bf16: return convert_rows<bf16, Source>(destination, source);
    case DType::f16: return convert_rows<f16, Source>(destination, source);
    default: CBTM_ASSERT(false, "copies convert between floating types only");
  }
}

}  // namespace

void CpuDevice::copy(TensorView destination, ConstTensorView source) {
  CBTM_ASSERT(destination.rows == source.rows && destination.columns == source.columns, "a copy keeps the shape");
  if (destination.dtype == source.dtype) {
    const int64_t item = dtype_bytes(source.dtype);
    for (int64_t row = 0; row < source.rows; ++row)
      std::memcpy(static_cast<char*>(destination.data) + row * destination.row_stride * item,
                  static_cast<const char*>(source.data) + row * source.row_stride * item,
                  static_cast<size_t>(source.columns * item));
    return;
  }
  switch (source.dtype) {
    case DType::f32: return convert_from<float>(destination, source);
    case DType::bf16: return convert_from<bf16>(destination, source);
    case DType::f16: return convert_from<f16>(destination, source);
    default: CBTM_ASSERT(false, "copies convert between floating types only");
  }
}

void CpuDevice::fill_zero(TensorView destination) {
  const int64_t item = dtype_bytes(destination.dtype);
  parallel_ranges(destination.rows, static_cast<double>(destination.columns) * 0.1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      std::memset(static_cast<char*>(destination.data) + row * destination.row_stride * item, 0,
                  static_cast<size_t>(destination.columns * item));
  });
}

int64_t CpuDevice::workspace_bytes(const WorkspaceShape& shape) const {
  constexpr int64_t kLossRows = 256, kQueryRows = 32, kNormChunks = 128;
  const int64_t logits = std::min(shape.rows, kLossRows) * shape.vocab_size;
  const int64_t norm_sums = kNormChunks * 2 * shape.hidden_size;  // share their memory with the logits
  // Of each thread: keys and values of a head, scores and their gradients of a block of queries, a block of a product.
  const int64_t attention = 2 * (shape.head_dim + kQueryRows) * shape.sequence_length + kQueryRows * shape.head_dim;
  return (std::max(logits, norm_sums) + thread_count() * (attention + cpu::kProductScratch)) * 4;
}

namespace cpu {

const float* widened_rows(const Kernels& kernels, ConstTensorView weight, int64_t first, int64_t count, float* buffer) {
  if (weight.dtype == DType::f32) return weight.as<float>() + first * weight.row_stride;
  for (int64_t row = 0; row < count; ++row) {
    float* out = buffer + row * weight.columns;
    if (weight.dtype == DType::bf16) {
      kernels.widen_bf16(weight.as<bf16>() + (first + row) * weight.row_stride, weight.columns, out);
    } else if (weight.dtype == DType::i8) {
      kernels.widen_i8(weight.as<int8_t>() + (first + row) * weight.row_stride, weight.columns, out);
    } else {
      const f16* in = weight.as<f16>() + (first + row) * weight.row_stride;
      for (int64_t column = 0; column < weight.columns; ++column) out[column] = to_float(in[column]);
    }
  }
  return buffer;
}

}  // namespace cpu
}  // namespace cbtm
