#include "commands/bench_device.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "cbtm/base/error.h"
#include "cbtm/base/memory.h"
#include "cbtm/base/philox.h"
#include "cbtm/device/device_matrix.h"
#include "cbtm/device/model_operators.h"

namespace cbtm {
namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* kPurpose = "measuring the device";
constexpr int kRounds = 5;
constexpr double kRoundSeconds = 0.1;

double seconds_of(Device& device, const std::function<void()>& work, int64_t times) {
  const auto start = Clock::now();
  for (int64_t i = 0; i < times; ++i) work();
  device.synchronize();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Seconds of one call, one after another without waiting: the median of some rounds.
double median_seconds(Device& device, const std::function<void()>& work) {
  seconds_of(device, work, 1);
  const double once = seconds_of(device, work, 1);
  const int64_t times = std::clamp<int64_t>(static_cast<int64_t>(kRoundSeconds / once), 1, 10'000);
  std::vector<double> rounds;
  for (int round = 0; round < kRounds; ++round)
    rounds.push_back(seconds_of(device, work, times) / static_cast<double>(times));
  std::sort(rounds.begin(), rounds.end());
  return rounds[kRounds / 2];
}

Json measure_copy(Device& device) {
  const int64_t bytes_max = std::min<int64_t>(int64_t{1} << 30, device.free_bytes() / 8);
  int64_t bytes = 4096;
  double rate = 0;
  for (int64_t larger = int64_t{16} << 20; larger <= bytes_max; larger *= 4) {
    bytes = larger;
    const DeviceMatrix from(device, DType::f32, 1024, bytes / 4096, kPurpose);
    const DeviceMatrix to(device, DType::f32, 1024, bytes / 4096, kPurpose);
    device.fill_zero(from.view());
    const double seconds = median_seconds(device, [&] { device.copy(to.view(), from.view()); });
    rate = 2 * static_cast<double>(bytes) / seconds;
    if (seconds > 0.1) break;  // four times as long is too long
  }
  fmt::print("copy of {}: {:.1f} GB/s read and written\n", format_bytes(bytes), rate / 1e9);
  return {{"bytes", bytes}, {"bytes_per_second", rate}};
}

/// In rows that repeat: a GPU multiplies zeros with less power, and so faster.
void fill_with_random_values(Device& device, TensorView matrix) {
  constexpr int64_t kRows = 64;
  PhiloxStream random(1, 0);
  std::vector<float> values(static_cast<size_t>(kRows * matrix.columns));
  for (float& value : values) value = 2 * static_cast<float>(random.next_uniform()) - 1;
  const DeviceMatrix rows = DeviceMatrix::copy_of<float>(device, values, kRows, kPurpose);
  for (int64_t first = 0; first < matrix.rows; first += kRows) device.copy(matrix.row_range(first, kRows), rows.view());
}

/// out = a bᵀ of square matrices, as large as fit a second or 8192.
Json measure_product(Device& device, DType dtype) {
  Json result;
  for (int64_t size = 512; size <= 8192; size *= 2) {
    if (3 * size * size * dtype_bytes(dtype) > device.free_bytes() / 2) break;
    const DeviceMatrix a(device, dtype, size, size, kPurpose), b(device, dtype, size, size, kPurpose);
    const DeviceMatrix out(device, dtype, size, size, kPurpose);
    for (const DeviceMatrix* matrix : {&a, &b}) fill_with_random_values(device, matrix->view());
    const auto product = [&] {
      device.model_operators().linear_forward(
          {.input = a.view(), .weight = b.view(), .output = out.view(), .row_sums = RowSums::prompt});
    };
    const double seconds = median_seconds(device, product);
    const double flops =
        2 * static_cast<double>(size) * static_cast<double>(size) * static_cast<double>(size) / seconds;
    result = {{"type", dtype_name(dtype)}, {"size", size}, {"flops_per_second", flops}};
    if (seconds > 0.2) break;  // eight times as long is too long
  }
  if (result.is_null())
    fail("too little memory is free for products of 512 x 512 matrices; close other programs, or name another device");
  fmt::print("{} product of {} x {} matrices: {:.2f} TFLOP/s\n", result["type"].get<std::string>(),
             result["size"].get<int64_t>(), result["size"].get<int64_t>(),
             result["flops_per_second"].get<double>() / 1e12);
  return result;
}

Json measure_launch(Device& device) {
  const DeviceMatrix source(device, DType::f32, 4, 16, kPurpose), out(device, DType::f32, 1, 16, kPurpose);
  device.fill_zero(source.view());
  const DeviceMatrix rows = DeviceMatrix::copy_of<int32_t>(device, std::vector<int32_t>{2}, 1, kPurpose);
  const auto gather = [&] {
    device.model_operators().gather_rows({.source = source.view(), .rows = rows.view(), .out = out.view()});
  };
  const double queued = median_seconds(device, gather);
  const double waited = median_seconds(device, [&] {
    gather();
    device.synchronize();
  });
  fmt::print("a short operator: {:.1f} us queued, {:.1f} us waited for\n", queued * 1e6, waited * 1e6);
  return {{"queued_seconds", queued}, {"waited_seconds", waited}};
}

}  // namespace

Json bench_device(Device& device) {
  fmt::print("{}\n", device.description());
  Json result = {{"what", "device"}, {"device", device.description()}, {"copy", measure_copy(device)}};
  result["products"].push_back(measure_product(device, DType::f32));
  if (const DType narrow = device.training_type(); narrow != DType::f32)
    result["products"].push_back(measure_product(device, narrow));
  result["short_operator"] = measure_launch(device);
  if (device.peak_flops() > 0) result["datasheet_flops_per_second"] = device.peak_flops();
  if (device.peak_bytes_per_second() > 0) result["datasheet_bytes_per_second"] = device.peak_bytes_per_second();
  return result;
}

}  // namespace cbtm
