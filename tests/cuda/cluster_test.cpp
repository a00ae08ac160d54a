// A router fitted on the CUDA device is that of the CPU device, as far as rounding allows.

#include <doctest/doctest.h>

#include <cmath>

#include "cbtm/cluster/kmeans.h"
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
  return fit_router(device, options, {.valid_fraction = 0.05, .tune_fraction = 0.05}, reader.digest());
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

}  // namespace
}  // namespace cbtm
