#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "cbtm/base/philox.h"
#include "cbtm/base/utf8.h"
#include "cbtm/cluster/balanced_assignment.h"
#include "cbtm/cluster/kmeans.h"
#include "cbtm/cluster/tfidf_router.h"
#include "cluster/words.h"

namespace cbtm {
namespace {

TEST_CASE("balanced assignment is optimal for any size, in its capacities and by its certificate") {
  const std::unique_ptr<Device> device = make_cpu_device();
  PhiloxStream random(5, 0);
  for (int trial = 0; trial < 60; ++trial) {
    const auto k = static_cast<int64_t>(1 + random.next_below(12)),
               n = k + static_cast<int64_t>(random.next_below(400));
    std::vector<float> costs(static_cast<size_t>(n * k));
    const bool ties = trial % 3 == 0;
    for (float& cost : costs)
      cost = ties ? static_cast<float>(random.next_below(4)) : static_cast<float>(random.next_uniform());
    std::vector<int64_t> capacities = equal_capacities(n, k);
    if (trial % 2 == 0 && k > 1) {  // uneven ones too
      const auto moved = std::min<int64_t>(capacities[0], static_cast<int64_t>(random.next_below(20)));
      capacities[0] -= moved;
      capacities[1] += moved;
    }
    const BalancedAssignment got = balanced_assignment(*device, view_of(costs.data(), n, k), capacities);
    std::vector<int64_t> sizes(static_cast<size_t>(k), 0);
    for (const int32_t label : got.labels) ++sizes[static_cast<size_t>(label)];
    CHECK(sizes == capacities);
    CHECK(got.cost - got.dual <= 1e-6 * (1 + std::abs(got.cost)));
    const BalancedAssignment again = balanced_assignment(*device, view_of(costs.data(), n, k), capacities, got.prices);
    CHECK(again.cost == doctest::Approx(got.cost).epsilon(1e-9));
  }
}

TEST_CASE("balanced k-means is reproducible, balanced for any n >= k, and better for more restarts") {
  const std::unique_ptr<Device> device = make_cpu_device();
  for (const int64_t n : {5, 6, 101, 999}) {
    PhiloxStream random(9, 0);
    std::vector<float> rows(static_cast<size_t>(n * 6));
    for (float& value : rows) value = static_cast<float>(random.next_normal());
    KMeansOptions options{.clusters = 5, .restarts = 1};
    const KMeansResult one = kmeans(*device, rows, 6, options);
    CHECK(kmeans(*device, rows, 6, options).labels == one.labels);
    options.restarts = 4;
    CHECK(kmeans(*device, rows, 6, options).objective() <= one.objective());
    std::vector<int64_t> sizes(5, 0);
    for (const int32_t label : one.labels) ++sizes[static_cast<size_t>(label)];
    CHECK(*std::max_element(sizes.begin(), sizes.end()) - *std::min_element(sizes.begin(), sizes.end()) <= 1);
    options.balanced = false;
    options.init = KMeansInit::random;
    CHECK(kmeans(*device, rows, 6, options).labels.size() == static_cast<size_t>(n));
  }
  const std::vector<float> few(12);
  CHECK_THROWS(kmeans(*device, few, 6, {.clusters = 3}));
}

TfidfRouter small_router() {
  TfidfRouter::Parts parts;
  parts.vocabulary = {
      "ab",           "abc",         "x1", "zz", "\u03bf\u03b4\u03bf\u03c2", "\u03bf\u03b4\u03bf\u03c3\u03b1",
      "\u03c3\u03c2", "\u65e5\u672c"};
  std::sort(parts.vocabulary.begin(), parts.vocabulary.end());
  parts.dimensions = 3;
  parts.clusters = 4;
  PhiloxStream random(3, 0);
  const auto fill = [&](std::vector<float>& values, size_t count) {
    for (size_t i = 0; i < count; ++i) values.push_back(static_cast<float>(random.next_normal()));
  };
  for (size_t i = 0; i < parts.vocabulary.size(); ++i)
    parts.idf.push_back(1 + static_cast<float>(random.next_uniform()));
  fill(parts.components, parts.vocabulary.size() * 3);
  fill(parts.centroids, 12);
  return TfidfRouter(std::move(parts));
}

TEST_CASE("an incremental context equals embedding the whole text, cut anywhere") {
  const TfidfRouter router = small_router();
  PhiloxStream random(8, 0);
  const char32_t alphabet[] = {'a', 'b', 'c',   'A',   'B',   'C',   'x',   '1',    'z',    ' ',   ' ',   '.',    '\'',
                               '-', '_', 0x39F, 0x394, 0x3A3, 0x3A3, 0x391, 0x65E5, 0x672C, 0x301, 0x130, 0x1F600};
  for (int trial = 0; trial < 400; ++trial) {
    std::string text;
    const uint64_t length = 1 + random.next_below(trial % 10 == 0 ? 300 : 30);
    const bool one_word = trial % 25 == 0;
    for (uint64_t i = 0; i < length; ++i)
      append_utf8(one_word ? U'a' : alphabet[random.next_below(std::size(alphabet))], text);
    if (trial % 7 == 0) text[random.next_below(text.size())] = '\xff';
    const std::unique_ptr<RoutingContext> context = router.context();
    size_t place = 0;
    while (place < text.size()) {
      const size_t count = std::min<size_t>(1 + random.next_below(5), text.size() - place);
      context->append(std::string_view(text).substr(place, count));
      place += count;
      std::vector<float> embedding(3);
      std::vector<double> want(4), got(4);
      router.embed(replace_invalid_utf8(std::string_view(text).substr(0, place)), embedding);
      router.squared_distances(embedding, want);
      context->squared_distances(got);
      for (size_t j = 0; j < 4; ++j) {
        CAPTURE(text);
        CAPTURE(place);
        CHECK(got[j] == doctest::Approx(want[j]).epsilon(1e-5));
      }
    }
  }
}

TEST_CASE("routing weights sum to 1, renormalise over those present, and top-k of all is all") {
  PhiloxStream random(4, 0);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<double> distances(6);
    for (double& distance : distances) distance = 2 * random.next_uniform();
    std::vector<double> all(6), top(6);
    routing_weights(distances, {.top_k = 6, .temperature = 0.05}, {}, all);
    routing_weights(distances, {.top_k = 99, .temperature = 0.05}, {}, top);
    CHECK(all == top);
    CHECK(std::accumulate(all.begin(), all.end(), 0.0) == doctest::Approx(1));
    const std::vector<uint8_t> present = {0, 1, 1, 0, 1, 0};
    routing_weights(distances, {.top_k = 2, .temperature = 1e-9}, present, top);
    CHECK(std::accumulate(top.begin(), top.end(), 0.0) == doctest::Approx(1));
    CHECK(top[0] + top[3] + top[5] == 0);
    CHECK(std::count_if(top.begin(), top.end(), [](double weight) { return weight > 0; }) <= 2);
  }
}

TEST_CASE("routing weights are finite and of sum 1 at any temperature") {
  const std::vector<double> distances = {1.5, 0.25, 0.25, 2.0, 1e-300, 1e300};
  const std::vector<double> near = {1.5, 0.25, 0.25, 2.0, 1.0, 3.0};
  for (const double power : {2.0, 4.0})
    for (const double temperature : {5e-324, 1e-320, 1e-300, 1e-9, 1.0, 1e9, 1e300}) {
      CAPTURE(power);
      CAPTURE(temperature);
      for (const auto& of : {distances, near, std::vector<double>(6, 1.0)}) {
        std::vector<double> weights(6);
        routing_weights(of, {.top_k = INT64_MAX, .temperature = temperature, .distance_power = power}, {}, weights);
        for (const double weight : weights) CHECK(std::isfinite(weight));
        CHECK(std::accumulate(weights.begin(), weights.end(), 0.0) == doctest::Approx(1));
      }
    }
  // The nearest share what there is at a temperature near zero; a single expert has all of it.
  std::vector<double> weights(6);
  routing_weights(near, {.top_k = 6, .temperature = 1e-320}, {}, weights);
  CHECK(weights == std::vector<double>{0, 0.5, 0.5, 0, 0, 0});
  routing_weights(near, {.top_k = 6, .temperature = 1e-320}, std::vector<uint8_t>{0, 0, 0, 1, 0, 0}, weights);
  CHECK(weights == std::vector<double>{0, 0, 0, 1, 0, 0});
}

}  // namespace
}  // namespace cbtm
