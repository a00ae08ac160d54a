// A router fitted on the CUDA device is that of the CPU device, as far as rounding allows.

#include <doctest/doctest.h>

#include <cmath>
#include <tuple>

#include "cbtm/base/philox.h"
#include "cbtm/cluster/kmeans.h"
#include "cbtm/device/cluster_operators.h"
#include "cbtm/device/device_matrix.h"
#include "cluster/fit.h"
#include "cuda_device.h"
#include "tests/largest_difference.h"

namespace cbtm {
namespace {

Fit fit_on(Device& device) {
  ClusterOptions options;
  options.corpus.paths = {std::string(CBTM_TEST_DATA) + "/cluster/corpus.jsonl"};
  options.clusters = 5;
  options.dimensions = 14;
  options.restarts = 1;
  CorpusReader reader(options.corpus);
  for (Document document; reader.next(document);) {
  }
  return fit_router(device, options, {.valid_fraction = 0.05, .tune_fraction = 0.05}, reader.digest(), nullptr);
}

/// Length of what the columns of a [rows, dimensions] have outside the space that those of b span: at least the sine of
/// the largest angle between the two spaces.
double subspace_distance(const std::vector<float>& a, const std::vector<float>& b, int64_t dimensions) {
  const auto d = static_cast<size_t>(dimensions);
  std::vector<double> cross(d * d, 0.0);  // bᵀ a
  for (size_t row = 0; row < a.size() / d; ++row)
    for (size_t i = 0; i < d; ++i)
      for (size_t j = 0; j < d; ++j)
        cross[i * d + j] += static_cast<double>(b[row * d + i]) * static_cast<double>(a[row * d + j]);
  double square = 0;
  for (size_t row = 0; row < a.size() / d; ++row)
    for (size_t j = 0; j < d; ++j) {
      double outside = static_cast<double>(a[row * d + j]);
      for (size_t i = 0; i < d; ++i) outside -= static_cast<double>(b[row * d + i]) * cross[i * d + j];
      square += outside * outside;
    }
  return std::sqrt(square);
}

TEST_CASE("words, subspace, labels, objective and certificate of a fitted router; plain k-means") {
  const std::unique_ptr<Device> cpu = make_cpu_device(), cuda = make_cuda_device(0);
  const Fit want = fit_on(*cpu), got = fit_on(*cuda);
  const TfidfRouter::Parts &w = want.router->parts(), &g = got.router->parts();
  CHECK(g.vocabulary == w.vocabulary);
  CHECK(g.idf == w.idf);
  CHECK(g.top_terms == w.top_terms);
  REQUIRE(g.dimensions == w.dimensions);
  // Rounding of a product, 1e-6, is magnified by how close the last singular value kept is to the first left out (some
  // hundredths apart), in an iteration that ends when none moves by 1e-4 of itself.
  CHECK(subspace_distance(g.components, w.components, w.dimensions) <= 1e-4);
  CHECK(got.labels == want.labels);
  CHECK(largest_difference(g.centroids, w.centroids) <= 1e-4);
  const double objective = want.summary.objective;
  CHECK(std::abs(got.summary.objective - objective) <= 1e-5 * objective);
  for (const Fit* fit : {&got, &want}) CHECK(std::abs(fit->summary.duality_gap) <= 1e-9);

  const KMeansOptions plain{.clusters = 7, .balanced = false, .restarts = 2, .seed = 3};
  const KMeansResult want_plain = kmeans(*cpu, want.embeddings, w.dimensions, plain),
                     got_plain = kmeans(*cuda, want.embeddings, w.dimensions, plain);
  CHECK(got_plain.labels == want_plain.labels);
  CHECK(got_plain.restart == want_plain.restart);
  CHECK(largest_difference(got_plain.centroids, want_plain.centroids) <= 1e-6);
}

/// Labels and distances of rows around the centres.
struct Nearest {
  std::vector<int32_t> labels;
  std::vector<float> distances;
};
Nearest nearest_on(Device& device, const std::vector<float>& rows, const std::vector<float>& centres,
                   int64_t dimensions, bool by_differences) {
  const auto n = static_cast<int64_t>(rows.size()) / dimensions, k = static_cast<int64_t>(centres.size()) / dimensions;
  const auto on_device = [&](const std::vector<float>& values, int64_t count) {
    return DeviceMatrix::reading_rows<float>(device, values, count, "a test");
  };
  const DeviceMatrix points = on_device(rows, n), centroids = on_device(centres, k);
  const DeviceMatrix labels(device, DType::i32, 1, n, "a test"), distances(device, DType::f32, 1, n, "a test"),
      second(device, DType::f32, 1, n, "a test");
  device.cluster_operators().nearest_centres({.rows = points.view(),
                                              .centroids = centroids.view(),
                                              .labels = labels.view(),
                                              .nearest = distances.view(),
                                              .second = by_differences ? second.view() : TensorView()});
  return {labels.to_host<int32_t>(), distances.to_host<float>()};
}

TEST_CASE("nearest centres by tensor cores: the bits of float32 differences, ties and near ties included") {
  const std::unique_ptr<Device> cuda = make_cuda_device(0);
  PhiloxStream random(3, 0);
  for (const auto& [n, dimensions, k] :
       {std::tuple<int64_t, int64_t, int64_t>{300, 100, 64}, {200, 37, 70}, {65, 3, 130}, {150, 256, 17}}) {
    CAPTURE(dimensions);
    std::vector<float> centres;
    for (int64_t i = 0; i < k * dimensions; ++i)
      centres.push_back(static_cast<float>(random.next_normal() / std::sqrt(static_cast<double>(dimensions))));
    const auto copy_centre = [&](int64_t to, int64_t from, float scale) {
      for (int64_t d = 0; d < dimensions; ++d)
        centres[static_cast<size_t>(to * dimensions + d)] =
            centres[static_cast<size_t>(from * dimensions + d)] * (d == dimensions / 2 ? scale : 1);
    };
    copy_centre(k - 1, 1, 1);         // equal: the first is wanted
    copy_centre(k - 2, 2, 1.00001f);  // nearly equal
    copy_centre(k - 3, 3, 1.0000001f);
    std::vector<float> rows;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t near = i % k, other = i * 7 % k;  // some on the border between two
      const auto share = static_cast<float>(i % 5 == 0 ? 0.5 : random.next_uniform() * 0.4);
      for (int64_t d = 0; d < dimensions; ++d)
        rows.push_back(centres[static_cast<size_t>(near * dimensions + d)] * (1 - share) +
                       centres[static_cast<size_t>(other * dimensions + d)] * share);
    }
    rows[5] = 700;                                      // far away from all
    rows[static_cast<size_t>(2 * dimensions)] = 3e38f;  // and too far for a distance
    const Nearest want = nearest_on(*cuda, rows, centres, dimensions, true),
                  got = nearest_on(*cuda, rows, centres, dimensions, false);
    CHECK(got.labels == want.labels);
    CHECK(got.distances == want.distances);
  }
}

}  // namespace
}  // namespace cbtm
