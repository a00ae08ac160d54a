// The bootstrap against known answers and against one written another way.

#include "cbtm/study/bootstrap.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "cbtm/base/philox.h"

namespace cbtm::study {
namespace {

TEST_CASE("equal differences have an interval of no width, whatever the documents' lengths") {
  const std::vector<int64_t> tokens = {5, 17, 100, 3};
  const Bootstrap bootstrap(tokens, 500, 1);
  std::vector<double> losses;
  for (const int64_t count : tokens) losses.push_back(0.25 * static_cast<double>(count));
  const Estimate estimate = bootstrap.estimate({losses, losses});
  CHECK(estimate.value == doctest::Approx(0.25));
  CHECK(estimate.low == doctest::Approx(0.25));
  CHECK(estimate.high == doctest::Approx(0.25));
  REQUIRE(estimate.by_seed.size() == 2);
  CHECK(estimate.by_seed[1] == doctest::Approx(0.25));
}

TEST_CASE("every resample is the ratio of sums over the drawn documents") {
  constexpr uint64_t kSeed = 99;
  constexpr int64_t kResamples = 300;
  const std::vector<int64_t> tokens = {5, 17, 100, 3, 40, 0, 8};
  const std::vector<double> losses = {1, -2, 30, 0.5, -7, 0, 4};
  const Bootstrap bootstrap(tokens, kResamples, kSeed);
  const std::vector<double> means = bootstrap.resampled_means(losses);
  REQUIRE(means.size() == kResamples);
  for (uint64_t r = 0; r < kResamples; ++r) {
    PhiloxStream random(kSeed, r);
    double loss = 0, count = 0;
    for (size_t draw = 0; draw < tokens.size(); ++draw) {
      const size_t document = random.next_below(tokens.size());
      loss += losses[document];
      count += static_cast<double>(tokens[document]);
    }
    REQUIRE(count > 0);
    CHECK(means[r] == doctest::Approx(loss / count).epsilon(1e-12));
  }
  double low = 0, high = 0;
  percentile_interval(means, low, high);
  // 300 values: the 8th and the 8th from the end (floor(0.025 * 300) = 7, from 0).
  std::vector<double> sorted = means;
  std::sort(sorted.begin(), sorted.end());
  CHECK(low == sorted[7]);
  CHECK(high == sorted[292]);
}

TEST_CASE("of equally long documents the interval is that of the mean of normal values") {
  constexpr size_t kDocuments = 400;
  PhiloxStream random(5, 0);
  std::vector<double> losses;
  double mean = 0, square = 0;
  for (size_t i = 0; i < kDocuments; ++i) {
    losses.push_back(3 + 2 * random.next_normal());
    mean += losses.back() / kDocuments;
  }
  for (const double loss : losses) square += (loss - mean) * (loss - mean) / kDocuments;
  const double error = std::sqrt(square / kDocuments);
  const Estimate estimate = Bootstrap(std::vector<int64_t>(kDocuments, 1), 4000, 3).estimate({losses});
  CHECK(estimate.value == doctest::Approx(mean));
  // A quantile at 2.5 % of 4000 resamples is uncertain by sqrt(0.025 * 0.975 / 4000) / 0.0584 = 0.042 standard errors;
  // four times that, and the bootstrap's own distance from the normal.
  CHECK(std::abs(estimate.low - (mean - 1.96 * error)) < 0.2 * error);
  CHECK(std::abs(estimate.high - (mean + 1.96 * error)) < 0.2 * error);
}

TEST_CASE("the mean over seeds is resampled, not each seed") {
  const std::vector<int64_t> tokens = {10, 10, 10, 10};
  const Bootstrap bootstrap(tokens, 200, 8);
  const std::vector<double> up = {4, -4, 2, -2}, down = {-4, 4, -2, 2};
  const Estimate estimate = bootstrap.estimate({up, down});
  CHECK(estimate.value == doctest::Approx(0));
  CHECK(estimate.low == doctest::Approx(0));
  CHECK(estimate.high == doctest::Approx(0));
}

}  // namespace
}  // namespace cbtm::study
