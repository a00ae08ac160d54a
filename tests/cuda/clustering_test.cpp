// Operators of clustering: the CUDA device against the CPU device.

#include <doctest/doctest.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "cbtm/device/cluster_operators.h"
#include "cbtm/device/device_matrix.h"
#include "cuda_device.h"
#include "tests/device/operands.h"

namespace cbtm {
namespace {

constexpr double kRoundoff = 0x1p-24;  // of float32

Device& cuda() {
  static const std::unique_ptr<Device> device = make_cuda_device(0);
  return *device;
}
Device& cpu() { return device_under_test(); }

struct Csr {
  int64_t rows = 0, columns = 0;
  std::vector<int64_t> indptr = {0};
  std::vector<int32_t> indices;
  std::vector<float> values;
};

/// Rows of random length about `length`, some empty; if `long_row`, the middle one has nearly all columns.
Csr random_csr(int64_t rows, int64_t columns, int64_t length, uint64_t seed, bool long_row = false) {
  PhiloxStream random(seed, 5);
  Csr a{rows, columns};
  for (int64_t row = 0; row < rows; ++row) {
    const double share = long_row && row == rows / 2 ? 0.9
                         : row % 5 == 3              ? 0
                                                     : static_cast<double>(length) / static_cast<double>(columns);
    for (int64_t column = 0; column < columns; ++column) {
      if (random.next_uniform() >= share) continue;
      a.indices.push_back(static_cast<int32_t>(column));
      a.values.push_back(static_cast<float>(1 + random.next_below(9)));
    }
    a.indptr.push_back(static_cast<int64_t>(a.indices.size()));
  }
  return a;
}

struct OnDevice {
  OnDevice(Device& device, const Csr& a)
      : rows(a.rows),
        columns(a.columns),
        indptr(DeviceMatrix::copy_of<int64_t>(device, a.indptr, 1, "test")),
        indices(DeviceMatrix::copy_of<int32_t>(device, a.indices, 1, "test")),
        values(DeviceMatrix::copy_of<float>(device, a.values, 1, "test")) {}
  SparseMatrix matrix() const { return {rows, columns, indptr.view(), indices.view(), values.view()}; }
  int64_t rows, columns;
  DeviceMatrix indptr, indices, values;
};

DeviceMatrix upload(Device& device, const std::vector<float>& values, int64_t rows) {
  return DeviceMatrix::copy_of<float>(device, values, rows, "test");
}

TEST_CASE("tf-idf rows and the transposed copy are the CPU's") {
  for (const auto& [rows, columns, length] :
       {std::tuple{1, 1, 1}, {7, 40, 3}, {33, 700, 350}, {300, 1031, 20}, {5, 9000, 4}}) {
    CAPTURE(rows);
    const Csr counts = random_csr(rows, columns, length, 3);
    std::vector<double> idf(static_cast<size_t>(columns));
    for (size_t i = 0; i < idf.size(); ++i) idf[i] = 1 + std::log(static_cast<double>(i) + 2);
    std::vector<float> got[2];
    std::vector<int32_t> indices[2];
    std::vector<int64_t> indptr[2];
    for (int side = 0; side < 2; ++side) {
      Device& device = side == 0 ? cpu() : cuda();
      const OnDevice a(device, counts);
      const DeviceMatrix idf_there = DeviceMatrix::copy_of<double>(device, idf, 1, "test");
      device.cluster_operators().tfidf_rows({a.matrix(), idf_there.view()});
      OnDevice transposed(device, counts);
      transposed.rows = columns;
      transposed.columns = rows;
      transposed.indptr = DeviceMatrix(device, DType::i64, 1, columns + 1, "test");
      device.cluster_operators().sparse_transpose(a.matrix(), transposed.matrix());
      got[side] = transposed.values.to_host<float>();
      indices[side] = transposed.indices.to_host<int32_t>();
      indptr[side] = transposed.indptr.to_host<int64_t>();
    }
    CHECK(indptr[0] == indptr[1]);
    CHECK(indices[0] == indices[1]);
    CHECK(relative_error(got[1], got[0]) <= kRoundoff);  // float64 sums in another order, rounded once
  }
}

TEST_CASE("sparse times dense: odd widths, aligned and not, empty and long rows") {
  for (const auto& [rows, columns, length, width] : {std::tuple{1, 1, 1, 1},
                                                     {9, 50, 7, 3},
                                                     {40, 300, 40, 110},
                                                     {21, 200, 60, 112},
                                                     {20, 90, 30, 129},
                                                     {10, 4000, 100, 132},
                                                     {10, 4000, 5, 8},
                                                     {0, 5, 1, 4}}) {
    CAPTURE(width);
    const Csr host = random_csr(rows, columns, length, 8, columns == 4000);
    const std::vector<float> x = random_values(columns * width, 2);
    const OnDevice here(cpu(), host), there(cuda(), host);
    const DeviceMatrix want(cpu(), DType::f32, rows, width, "test"), got(cuda(), DType::f32, rows, width, "test");
    cpu().cluster_operators().sparse_times_dense(here.matrix(), upload(cpu(), x, columns).view(), want.view());
    const DeviceMatrix x_there = upload(cuda(), x, columns);
    cuda().cluster_operators().sparse_times_dense(there.matrix(), x_there.view(), got.view());
    // Each sum of n products of size at most 9 is off by n roundoffs of the sum of their sizes.
    const double entries = columns == 4000 ? 3600 : 2 * length;
    const std::vector<float> a = want.to_host<float>(), b = got.to_host<float>();
    double error = 0;
    for (size_t i = 0; i < a.size(); ++i) error = std::max(error, std::abs(static_cast<double>(a[i] - b[i])));
    CHECK(error <= 2 * entries * kRoundoff * 9 * std::sqrt(entries));
    std::vector<float> again = got.to_host<float>();
    cuda().cluster_operators().sparse_times_dense(there.matrix(), x_there.view(), got.view());
    CHECK(again == got.to_host<float>());
  }
}

TEST_CASE("Gram matrices, with outliers, of any width and height") {
  for (const auto& [rows, columns] :
       {std::pair{1, 1}, {0, 3}, {5, 64}, {1000, 65}, {1025, 110}, {3000, 12}, {2100, 130}}) {
    CAPTURE(rows);
    CAPTURE(columns);
    std::vector<float> x = random_values(int64_t{rows} * columns, 4);
    if (!x.empty()) x[x.size() / 2] = 1000;
    const DeviceMatrix here = upload(cpu(), x, rows), there = upload(cuda(), x, rows);
    const DeviceMatrix got(cuda(), DType::f64, columns, columns, "test");
    const ConstTensorView view{there.view().data, DType::f32, rows, columns};
    cuda().cluster_operators().gram(view, got.view());
    const std::vector<double> values = got.to_host<double>();
    std::vector<double> exact(values.size(), 0.0), sizes(values.size(), 0.0);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < columns; ++i)
        for (int64_t j = 0; j < columns; ++j) {
          const double product = static_cast<double>(x[static_cast<size_t>(r * columns + i)]) *
                                 static_cast<double>(x[static_cast<size_t>(r * columns + j)]);
          exact[static_cast<size_t>(i * columns + j)] += product;
          sizes[static_cast<size_t>(i * columns + j)] += std::abs(product);
        }
    double excess = 0;  // error beyond sqrt(1024) roundoffs of the summed sizes (random signs), four deviations
    for (size_t i = 0; i < values.size(); ++i)
      excess = std::max(excess, std::abs(values[i] - exact[i]) - 4 * 32 * kRoundoff * (sizes[i] + 1e-30));
    CHECK(excess <= 0);
  }
}

TEST_CASE("a triangle is divided out as on the CPU; dependent columns become zero") {
  for (const auto& [rows, columns] : {std::pair{1, 1}, {5, 31}, {18, 32}, {7, 33}, {37, 110}, {3, 200}, {2, 500}}) {
    CAPTURE(columns);
    const std::vector<float> y = random_values(int64_t{rows} * columns, 5);
    const std::vector<float> noise = random_values(int64_t{columns} * columns, 6);
    std::vector<double> upper(noise.begin(), noise.end());
    for (int64_t i = 0; i < columns; ++i) {
      for (int64_t j = 0; j < columns; ++j) {
        double& value = upper[static_cast<size_t>(i * columns + j)];
        value = j < i ? 99 : j == i ? 1 + std::abs(value) : value / static_cast<double>(columns);
      }
      if (i % 7 == 4) upper[static_cast<size_t>(i * columns + i)] = 0;
    }
    std::vector<float> got[2];
    for (int side = 0; side < 2; ++side) {
      Device& device = side == 0 ? cpu() : cuda();
      const DeviceMatrix there = upload(device, y, rows);
      const DeviceMatrix r = DeviceMatrix::copy_of<double>(device, upper, columns, "test");
      device.cluster_operators().solve_upper(r.view(), there.view());
      got[side] = there.to_host<float>();
    }
    // The triangle is so well conditioned that errors do not grow: a roundoff a step, about.
    CHECK(relative_error(got[1], got[0]) <= 4 * std::sqrt(static_cast<double>(columns)) * kRoundoff);
    for (int64_t column = 4; column < columns; column += 7) CHECK(got[1][static_cast<size_t>(column)] == 0);
  }
}

TEST_CASE("distances, the two nearest centres, and sums of clusters") {
  for (const auto& [n, d, k] :
       {std::tuple{1, 1, 1}, {70, 3, 2}, {65, 33, 64}, {200, 100, 65}, {130, 14, 150}, {64, 32, 7}}) {
    CAPTURE(n);
    CAPTURE(k);
    std::vector<float> rows = random_values(int64_t{n} * d, 1), centres = random_values(int64_t{k} * d, 2);
    rows[rows.size() / 3] = 500;
    if (k > 2) std::copy_n(centres.begin(), d, centres.begin() + (k - 1) * d);  // the first of equals is wanted
    std::vector<float> distances[2], nearest[2], second[2];
    std::vector<int32_t> labels[2];
    std::vector<double> sums[2];
    std::vector<int64_t> counts[2];
    for (int side = 0; side < 2; ++side) {
      Device& device = side == 0 ? cpu() : cuda();
      const DeviceMatrix x = upload(device, rows, n), c = upload(device, centres, k);
      const DeviceMatrix out(device, DType::f32, n, k, "test"), label(device, DType::i32, 1, n, "test"),
          first(device, DType::f32, 1, n, "test"), other(device, DType::f32, 1, n, "test"),
          sum(device, DType::f64, k, d, "test"), count(device, DType::i64, 1, k, "test");
      device.cluster_operators().squared_distances(x.view(), c.view(), out.view());
      device.cluster_operators().nearest_centres({x.view(), c.view(), label.view(), first.view(), other.view()});
      distances[side] = out.to_host<float>();
      nearest[side] = first.to_host<float>();
      second[side] = other.to_host<float>();
      labels[side] = label.to_host<int32_t>();
      label.write<int32_t>(labels[0]);
      device.cluster_operators().cluster_sums({x.view(), label.view(), sum.view(), count.view()});
      sums[side] = sum.to_host<double>();
      counts[side] = count.to_host<int64_t>();
    }
    for (size_t i = 0; i < distances[0].size(); ++i)  // d squares, each with three roundings
      CHECK(std::abs(distances[1][i] - distances[0][i]) <= (d + 2) * kRoundoff * static_cast<double>(distances[0][i]));
    for (size_t i = 0; i < labels[1].size(); ++i) {
      const auto row = distances[1].begin() + static_cast<int64_t>(i) * k;
      std::vector<float> sorted(row, row + k);
      std::sort(sorted.begin(), sorted.end());
      CHECK(labels[1][i] == std::min_element(row, row + k) - row);
      CHECK(nearest[1][i] == sorted[0]);
      CHECK(second[1][i] == (k > 1 ? sorted[1] : INFINITY));
    }
    CHECK(counts[1] == counts[0]);
    CHECK(relative_error(sums[1], sums[0]) <= 1e-14);
  }
}

TEST_CASE("prices by selection, assignment at prices") {
  for (const auto& [n, k] : {std::pair{1, 3}, {50, 2}, {600, 5}, {1000, 24}, {300, 40}, {40, 1}}) {
    CAPTURE(n);
    CAPTURE(k);
    std::vector<float> costs = random_values(int64_t{n} * k, 6);
    if (n == 600)
      for (float& cost : costs) cost = std::round(cost * 3);  // ties
    const std::vector<int64_t> ranks(static_cast<size_t>(k), std::max(0, n / k - 1));
    std::vector<double> prices[2], dual[2];
    std::vector<float> margins[2];
    std::vector<int32_t> labels[2];
    std::vector<int64_t> counts[2];
    for (int side = 0; side < 2; ++side) {
      Device& device = side == 0 ? cpu() : cuda();
      const DeviceMatrix c = upload(device, costs, n);
      DeviceMatrix price =
          DeviceMatrix::copy_of<double>(device, std::vector<double>(static_cast<size_t>(k)), 1, "test");
      const TensorView every_second{c.view().data, DType::f32, (n + 1) / 2, k, int64_t{2} * k};
      const std::vector<int64_t> half(ranks.size(), ranks[0] / 2);
      device.cluster_operators().price_sweep({every_second, half, price.view()});
      for (int sweep = 0; sweep < 3; ++sweep) device.cluster_operators().price_sweep({c.view(), ranks, price.view()});
      prices[side] = price.to_host<double>();
      price.write<double>(prices[0]);
      const DeviceMatrix label(device, DType::i32, 1, n, "test"), margin(device, DType::f32, 1, n, "test"),
          count(device, DType::i64, 1, k, "test"), dual_sum(device, DType::f64, 1, 1, "test");
      device.cluster_operators().assign_at_prices(
          {c.view(), price.view(), label.view(), margin.view(), count.view(), dual_sum.view()});
      labels[side] = label.to_host<int32_t>();
      margins[side] = margin.to_host<float>();
      counts[side] = count.to_host<int64_t>();
      dual[side] = dual_sum.to_host<double>();
    }
    // Each price is rounded to float32 and enters those after it: 4 sweeps of k.
    CHECK(relative_error(prices[1], prices[0]) <= 4.0 * k * kRoundoff);
    CHECK(labels[1] == labels[0]);
    CHECK(margins[1] == margins[0]);
    CHECK(counts[1] == counts[0]);
    CHECK(relative_error(dual[1], dual[0]) <= 1e-14);
  }
}

}  // namespace
}  // namespace cbtm
