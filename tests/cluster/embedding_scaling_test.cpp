// Standardised embeddings against their formula, written out here.

#include <doctest/doctest.h>

#include <cmath>
#include <map>

#include "cbtm/base/error.h"
#include "cbtm/base/philox.h"
#include "cbtm/cluster/open_router.h"
#include "cbtm/cluster/tfidf_router.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

constexpr int64_t kDimensions = 3, kClusters = 4;
const std::vector<std::string> kWords = {"ab", "cd", "ef", "gh", "ij"};  // sorted

TfidfRouter::Parts random_parts(EmbeddingScaling scaling) {
  PhiloxStream random(31, 0);
  TfidfRouter::Parts parts{.vocabulary = kWords, .scaling = scaling, .dimensions = kDimensions, .clusters = kClusters};
  const auto fill = [&](std::vector<float>& values, size_t count, double least) {
    for (size_t i = 0; i < count; ++i)
      values.push_back(static_cast<float>(least > 0 ? least + random.next_uniform() : random.next_normal()));
  };
  fill(parts.idf, kWords.size(), 1);
  fill(parts.components, kWords.size() * kDimensions, 0);
  fill(parts.centroids, kClusters * kDimensions, 0);
  if (scaling == EmbeddingScaling::standardised) {
    fill(parts.mean, kDimensions, 0);
    fill(parts.deviation, kDimensions, 0.1);
  }
  return parts;
}

/// (y − μ) / σ with y = Σ count idf row / |count idf|, or y = 0 without words.
std::vector<double> standardised(const TfidfRouter::Parts& parts, const std::map<size_t, int>& counts) {
  std::vector<double> y(kDimensions);
  double square = 0;
  for (const auto& [word, count] : counts) {
    const double value = count * static_cast<double>(parts.idf[word]);
    square += value * value;
    for (size_t d = 0; d < y.size(); ++d) y[d] += value * static_cast<double>(parts.components[word * kDimensions + d]);
  }
  for (size_t d = 0; d < y.size(); ++d) {
    if (square > 0) y[d] /= std::sqrt(square);
    y[d] = (y[d] - static_cast<double>(parts.mean[d])) / static_cast<double>(parts.deviation[d]);
  }
  return y;
}

TEST_CASE("a standardised embedding is the projected row minus the mean over the deviation; contexts agree") {
  const TfidfRouter::Parts parts = random_parts(EmbeddingScaling::standardised);
  const TfidfRouter router(parts);
  const std::vector<std::pair<std::string, std::map<size_t, int>>> texts = {
      {"", {}}, {"zz 1", {}}, {"ab", {{0, 1}}}, {"ab cd ab. IJ", {{0, 2}, {1, 1}, {4, 1}}}, {"gh gh gh", {{3, 3}}}};
  for (const auto& [text, counts] : texts) {
    CAPTURE(text);
    std::vector<float> embedding(kDimensions);
    CHECK(router.embed(text, embedding) == !counts.empty());
    const std::vector<double> want = standardised(parts, counts);
    for (size_t d = 0; d < want.size(); ++d)
      CHECK(static_cast<double>(embedding[d]) == doctest::Approx(want[d]).epsilon(1e-6));
    const std::unique_ptr<RoutingContext> context = router.context();
    for (const char byte : text) context->append({&byte, 1});
    std::vector<double> distances(kClusters);
    context->squared_distances(distances);
    for (size_t j = 0; j < kClusters; ++j) {
      double sum = 0;
      for (size_t d = 0; d < want.size(); ++d)
        sum += std::pow(want[d] - static_cast<double>(parts.centroids[j * kDimensions + d]), 2);
      CHECK(distances[j] == doctest::Approx(sum).epsilon(1e-9));
    }
  }
}

TEST_CASE("the scaling is stored, is part of the hash, and sets the scale of temperatures") {
  const TemporaryDirectory directory;
  const TfidfRouter router(random_parts(EmbeddingScaling::standardised), {.temperature = 0.7, .distance_power = 4});
  CHECK(router.temperature_scale() == kDimensions);
  CHECK(TfidfRouter(random_parts(EmbeddingScaling::l2)).temperature_scale() == 1);
  router.save(directory / "router");
  const std::unique_ptr<Router> read = open_router(directory / "router");
  CHECK(read->content_hash() == router.content_hash());
  CHECK(read->defaults().temperature == 0.7);
  CHECK(read->defaults().distance_power == 4);
  CHECK(read->temperature_scale() == kDimensions);
  TfidfRouter::Parts other = random_parts(EmbeddingScaling::standardised);
  other.mean[0] += 1;
  CHECK(TfidfRouter(other).content_hash() != router.content_hash());

  other.deviation[1] = 0;
  TfidfRouter(other).save(directory / "flat");
  CHECK_THROWS_WITH_AS(open_router(directory / "flat"), doctest::Contains("not positive"), Error);
  Json json = read_json_file(directory / "router/router.json");
  CHECK(json["embedding_scaling"] == "standardised");
  json["embedding_scaling"] = "none";
  write_json_file(directory / "router/router.json", json);
  CHECK_THROWS_WITH_AS(open_router(directory / "router"), doctest::Contains("embedding_scaling must be"), Error);
}

}  // namespace
}  // namespace cbtm
