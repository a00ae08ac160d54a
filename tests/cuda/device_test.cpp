#include <doctest/doctest.h>

#include <array>
#include <numeric>
#include <vector>

#include "cbtm/base/error.h"
#include "cbtm/device/device_matrix.h"
#include "cuda_device.h"

namespace cbtm {

TEST_CASE("the machine's GPUs are listed and opened by number") {
  const CudaSystem system = cuda_system();
  REQUIRE(system.problem.empty());
  REQUIRE(system.device_count > 0);
  CHECK(cuda_device_info(0).problem.empty());
  CHECK(cuda_device_info(0).multiprocessors > 0);
  CHECK(make_cuda_device(0)->description().starts_with("cuda:0"));
  CHECK_THROWS_AS(make_cuda_device(system.device_count), Error);
}

TEST_CASE("copies arrive whole, in order, and may reuse their source") {
  const std::unique_ptr<Device> device = make_cuda_device(0);
  for (const int64_t count : {0, 1, 3, 262'143, 262'144, 5'000'001}) {
    CAPTURE(count);
    std::vector<float> values(static_cast<size_t>(count));
    std::iota(values.begin(), values.end(), 1.0f);
    const std::vector<float> kept = values;
    const DeviceBuffer buffer = device->allocate(count * 4, "test");
    device->copy_to_device(buffer.data(), values.data(), count * 4);
    values.assign(values.size(), -1.0f);
    device->copy_to_host(values.data(), buffer.data(), count * 4);
    CHECK(values == kept);
  }
}

TEST_CASE("copy and fill_zero keep to the rows of strided views") {
  const std::unique_ptr<Device> device = make_cuda_device(0);
  std::vector<float> values(7 * 5);
  std::iota(values.begin(), values.end(), 1.0f);
  const DeviceBuffer source = device->allocate(7 * 5 * 4, "test");
  const DeviceBuffer target = device->allocate(7 * 3 * 4, "test");
  device->copy_to_device(source.data(), values.data(), 7 * 5 * 4);
  const TensorView middle = source.view(DType::f32, 7, 5).column_range(1, 3);
  device->copy(target.view(DType::f32, 7, 3), middle);
  device->fill_zero(middle);
  std::vector<float> copied(7 * 3), left(7 * 5);
  device->copy_to_host(copied.data(), target.data(), 7 * 3 * 4);
  device->copy_to_host(left.data(), source.data(), 7 * 5 * 4);
  for (size_t row = 0; row < 7; ++row)
    for (size_t column = 0; column < 5; ++column) {
      const bool inside = column >= 1 && column < 4;
      CHECK(left[row * 5 + column] == (inside ? 0 : values[row * 5 + column]));
      if (inside) CHECK(copied[row * 3 + column - 1] == values[row * 5 + column]);
    }
}

TEST_CASE("copies and zeros of views whose rows are further apart than the runtime's 2-D calls take") {
  const std::unique_ptr<Device> device = make_cuda_device(0);
  std::vector<float> values(100), got(100, -1.0f);
  std::iota(values.begin(), values.end(), 1.0f);
  const DeviceBuffer source = device->allocate(400, "test"), target = device->allocate(400, "test");
  device->copy_to_device(source.data(), values.data(), 400);
  // A range of columns of a flat buffer of 2 GiB and more, such as a share of the parameters of a large model.
  const TensorView far(source.data(), DType::f32, 1, 100, int64_t{1} << 31);
  const TensorView to(target.data(), DType::f32, 1, 100, int64_t{1} << 31);
  device->copy(to, far);
  device->copy_to_host(got.data(), target.data(), 400);
  CHECK(got == values);
  device->fill_zero(to.column_range(10, 20));
  device->copy_to_host(got.data(), target.data(), 400);
  for (size_t i = 0; i < 100; ++i) CHECK(got[i] == (i >= 10 && i < 30 ? 0 : values[i]));
}

TEST_CASE("rows further apart than the runtime's 2-D calls take are copied one by one") {
  // 4.3 GB of memory, of which little is touched.
  const std::unique_ptr<Device> device = make_cuda_device(0);
  constexpr int64_t kStride = (int64_t{1} << 29) + 64;  // more than 2^31 bytes
  if (device->free_bytes() < 2 * kStride * 4 + (int64_t{64} << 20)) {
    MESSAGE("SKIPPED: too little GPU memory");
    return;
  }
  std::vector<float> values(2 * 8), got(2 * 8);
  std::iota(values.begin(), values.end(), 1.0f);
  const DeviceBuffer wide = device->allocate((kStride + 8) * 4, "test"), narrow = device->allocate(2 * 8 * 4, "test");
  const TensorView rows(wide.data(), DType::f32, 2, 8, kStride), packed = narrow.view(DType::f32, 2, 8);
  device->copy_to_device(narrow.data(), values.data(), 64);
  device->copy(rows, packed);
  device->fill_zero(packed);
  device->copy(packed, rows);
  device->copy_to_host(got.data(), narrow.data(), 64);
  CHECK(got == values);
  device->fill_zero(rows.column_range(2, 3));
  device->copy(packed, rows);
  device->copy_to_host(got.data(), narrow.data(), 64);
  for (size_t i = 0; i < 16; ++i) CHECK(got[i] == (i % 8 >= 2 && i % 8 < 5 ? 0 : values[i]));
}

TEST_CASE("padded matrices: rows at multiples of a sector, zeros between them, the same numbers back") {
  const std::unique_ptr<Device> device = make_cuda_device(0);
  for (const auto& [rows, columns, stride] :
       {std::array<int64_t, 3>{5, 7, 8}, {1, 3, 8}, {3, 16, 16}, {70'000, 17, 24}}) {
    CAPTURE(columns);
    std::vector<float> values(static_cast<size_t>(rows * columns));
    std::iota(values.begin(), values.end(), 1.0f);
    const DeviceMatrix matrix = DeviceMatrix::reading_rows<float>(*device, values, rows, "test");
    CHECK(matrix.to_host<float>() == values);
    REQUIRE(matrix.view().columns == columns);
    REQUIRE(matrix.view().row_stride == stride);
    std::vector<float> stored(static_cast<size_t>(rows * stride));
    device->copy_to_host(stored.data(), matrix.view().data, rows * stride * 4);
    int64_t wrong = 0;
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t column = 0; column < stride; ++column) {
        const float want = column < columns ? values[static_cast<size_t>(row * columns + column)] : 0;
        if (stored[static_cast<size_t>(row * stride + column)] != want) ++wrong;
      }
    CHECK(wrong == 0);
  }
}

TEST_CASE("plans leave a part of the memory free: 5 percent, or 1 GiB") {
  const std::unique_ptr<Device> device = make_cuda_device(0);
  const CudaDeviceInfo info = cuda_device_info(0);
  const int64_t reserve = std::min<int64_t>(int64_t{1} << 30, info.memory_bytes / 20);
  CHECK(device->free_bytes() <= info.memory_bytes - reserve);
  const DeviceBuffer all = device->allocate(device->free_bytes(), "test");
  CHECK(device->free_bytes() <= 2 << 20);  // granules of the driver
  const DeviceBuffer more = device->allocate(reserve / 2, "test");
  CHECK(more.data() != nullptr);
}

TEST_CASE("too little memory is an error that says what was asked for and what is free") {
  const std::unique_ptr<Device> device = make_cuda_device(0);
  CHECK_THROWS_WITH_AS(device->allocate(int64_t{1} << 50, "weights"),
                       doctest::Contains("weights needs 1024 TiB of GPU memory, but only"), Error);
  const DeviceBuffer still_works = device->allocate(1024, "test");
  CHECK(still_works.data() != nullptr);
}

}  // namespace cbtm
