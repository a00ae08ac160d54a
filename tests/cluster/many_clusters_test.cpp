// Assignment where clusters are many and small, where points are equal, and where both hold.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <numeric>

#include "cbtm/base/error.h"
#include "cbtm/base/philox.h"
#include "cbtm/cluster/balanced_assignment.h"
#include "cbtm/cluster/kmeans.h"
#include "cbtm/device/cluster_operators.h"

namespace cbtm {
namespace {

Device& device() {
  static const std::unique_ptr<Device> cpu = make_cpu_device();
  return *cpu;
}

std::vector<float> random_costs(int64_t n, int64_t k, uint64_t seed, uint64_t values = 0) {
  PhiloxStream random(seed, 0);
  std::vector<float> costs(static_cast<size_t>(n * k));
  for (float& cost : costs)
    cost = values > 0 ? static_cast<float>(random.next_below(values)) : static_cast<float>(random.next_uniform());
  return costs;
}

BalancedAssignment check_optimal(const std::vector<float>& costs, int64_t n, int64_t k) {
  const std::vector<int64_t> capacities = equal_capacities(n, k);
  BalancedAssignment got = balanced_assignment(device(), view_of(costs.data(), n, k), capacities);
  std::vector<int64_t> sizes(static_cast<size_t>(k), 0);
  double cost = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int32_t label = got.labels[static_cast<size_t>(i)];
    ++sizes[static_cast<size_t>(label)];
    cost += static_cast<double>(costs[static_cast<size_t>(i * k + label)]);
  }
  CHECK(sizes == capacities);
  CHECK(got.cost == doctest::Approx(cost).epsilon(1e-9));
  // The dual at the prices, worked out here, bounds every assignment from below.
  double dual = 0;
  for (int64_t i = 0; i < n; ++i) {
    double least = INFINITY;
    for (int64_t j = 0; j < k; ++j)
      least = std::min(least,
                       static_cast<double>(costs[static_cast<size_t>(i * k + j)]) + got.prices[static_cast<size_t>(j)]);
    dual += least;
  }
  for (int64_t j = 0; j < k; ++j)
    dual -= got.prices[static_cast<size_t>(j)] * static_cast<double>(capacities[static_cast<size_t>(j)]);
  CHECK(cost - dual <= 1e-9 * (1 + std::abs(cost)));
  return got;
}

TEST_CASE("assignments are optimal from one point per cluster on, with ties and without") {
  for (const auto& [n, k] :
       {std::pair{1, 1}, {64, 64}, {65, 64}, {150, 50}, {600, 200}, {1500, 100}, {900, 7}, {700, 2}})
    for (const uint64_t values : {0, 1, 2, 5}) {
      CAPTURE(n);
      CAPTURE(k);
      CAPTURE(values);
      check_optimal(random_costs(n, k, 17, values), n, k);
    }
}

TEST_CASE("small assignments cost what the best of all permutations costs") {
  constexpr int64_t kSize = 6;
  for (uint64_t trial = 0; trial < 20; ++trial) {
    const std::vector<float> costs = random_costs(kSize, kSize, trial, trial % 2 == 0 ? 4 : 0);
    std::vector<int64_t> order(kSize);
    std::iota(order.begin(), order.end(), 0);
    double best = INFINITY;
    do {
      double cost = 0;
      for (int64_t i = 0; i < kSize; ++i)
        cost += static_cast<double>(costs[static_cast<size_t>(i * kSize + order[static_cast<size_t>(i)])]);
      best = std::min(best, cost);
    } while (std::next_permutation(order.begin(), order.end()));
    CHECK(check_optimal(costs, kSize, kSize).cost == doctest::Approx(best).epsilon(1e-9));
  }
}

TEST_CASE("points that come in heaps of equals are dealt out fast") {
  constexpr int64_t kPoints = 20'000, kClusters = 40;
  const std::vector<float> kinds = random_costs(3, kClusters, 5);
  std::vector<float> costs;
  for (int64_t i = 0; i < kPoints; ++i)
    costs.insert(costs.end(), kinds.begin() + i % 3 * kClusters, kinds.begin() + (i % 3 + 1) * kClusters);
  const std::clock_t start = std::clock();
  check_optimal(costs, kPoints, kClusters);
  CHECK(std::clock() - start < 30 * CLOCKS_PER_SEC);
}

TEST_CASE("a sweep sets each price as its definition says") {
  constexpr int64_t kPoints = 57, kClusters = 21;
  const std::vector<float> costs = random_costs(kPoints, kClusters, 3, 6);
  std::vector<int64_t> ranks;
  for (int64_t j = 0; j < kClusters; ++j) ranks.push_back(j % 5);
  std::vector<double> got(kClusters, 0.0), want(kClusters, 0.0);
  for (int sweep = 0; sweep < 3; ++sweep) {
    device().cluster_operators().price_sweep(
        {view_of(costs.data(), kPoints, kClusters), ranks, view_of(got.data(), 1, kClusters)});
    for (int64_t j = 0; j < kClusters; ++j) {
      std::vector<double> advantages;
      for (int64_t i = 0; i < kPoints; ++i) {
        double other = INFINITY;
        for (int64_t b = 0; b < kClusters; ++b)
          if (b != j)
            other = std::min(other, static_cast<double>(costs[static_cast<size_t>(i * kClusters + b)]) +
                                        want[static_cast<size_t>(b)]);
        advantages.push_back(other - static_cast<double>(costs[static_cast<size_t>(i * kClusters + j)]));
      }
      std::sort(advantages.begin(), advantages.end(), std::greater<>());
      want[static_cast<size_t>(j)] = advantages[static_cast<size_t>(ranks[static_cast<size_t>(j)])];
    }
    CHECK(got == want);
  }
}

TEST_CASE("fewer different rows than clusters are refused with the number that would do") {
  std::vector<float> rows;
  for (int i = 0; i < 30; ++i) rows.insert(rows.end(), {i % 2 == 0 ? 1.0f : 0.0f, i % 2 == 0 ? 0.0f : 1.0f});
  for (const KMeansInit init : {KMeansInit::plus_plus, KMeansInit::random}) {
    CHECK_THROWS_WITH_AS(kmeans(device(), rows, 2, {.clusters = 4, .init = init}), doctest::Contains("use --k 2"),
                         Error);
    CHECK(kmeans(device(), rows, 2, {.clusters = 2, .init = init}).labels.size() == 30);
  }
  // From given centres, equal ones too, it ends.
  const std::vector<float> centres(8, 0.5f);
  CHECK(kmeans_from(device(), rows, 2, centres, {.clusters = 4}).labels.size() == 30);
}

TEST_SUITE("slow") {
  TEST_CASE("a thousand clusters of three points take seconds") {
    constexpr int64_t kPoints = 3000, kClusters = 1024, kDimensions = 10;
    PhiloxStream random(2, 0);
    std::vector<float> rows(static_cast<size_t>(kPoints * kDimensions));
    for (float& value : rows) value = static_cast<float>(random.next_normal());
    const std::clock_t start = std::clock();
    const KMeansResult result = kmeans(device(), rows, kDimensions, {.clusters = kClusters, .restarts = 1});
    CHECK(std::clock() - start < 60 * CLOCKS_PER_SEC);  // about 3 in an optimised build
    CHECK(std::abs(result.relative_gap) <= 1e-9);
    const KMeansResult all =
        kmeans(device(), std::span(rows).first(1000 * kDimensions), kDimensions, {.clusters = 1000, .restarts = 1});
    CHECK(all.objective() == doctest::Approx(0));
  }
}

}  // namespace
}  // namespace cbtm
