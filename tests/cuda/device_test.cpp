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
  REQUIRE(!system.devices.empty());
  CHECK(system.devices[0].problem.empty());
  CHECK(system.devices[0].multiprocessors > 0);
  CHECK(make_cuda_device(0)->description().starts_with("cuda:0"));
  CHECK_THROWS_AS(make_cuda_device(static_cast<int>(system.devices.size())), Error);
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

TEST_CASE("too little memory is an error that says what was asked for and what is free") {
  const std::unique_ptr<Device> device = make_cuda_device(0);
  const int64_t before = device->free_bytes();
  CHECK_THROWS_WITH_AS(device->allocate(int64_t{1} << 50, "weights"),
                       doctest::Contains("weights needs 1024 TiB of GPU memory, but only"), Error);
  CHECK(device->free_bytes() == before);
  const DeviceBuffer still_works = device->allocate(1024, "test");
  CHECK(still_works.data() != nullptr);
}

}  // namespace cbtm
