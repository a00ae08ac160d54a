#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "cbtm/base/error.h"
#include "cbtm/model/sampling.h"

namespace cbtm {
namespace {

TEST_CASE("any temperature above zero gives probabilities") {
  for (const double temperature : {5e-324, 1e-310, 1e-30, 1e-4, 1.0, 1e30, 1e308})
    for (const double top_p : {1e-300, 0.5, 1.0}) {
      CAPTURE(temperature);
      CAPTURE(top_p);
      std::vector<float> scores = {-3e38f, 2.0f, 3e38f, 1.0f, -INFINITY};
      next_token_distribution(scores, {}, {.filter = {.temperature = temperature, .top_p = top_p}});
      CHECK(std::accumulate(scores.begin(), scores.end(), 0.0f) == doctest::Approx(1));
      for (const float probability : scores) CHECK(std::isfinite(probability));
      CHECK(std::max_element(scores.begin(), scores.end()) - scores.begin() <= 2);
    }
}

TEST_CASE("scores that are not finite are an error, and no token") {
  for (const bool greedy : {false, true})
    for (const std::vector<float>& broken : {std::vector<float>{NAN, 1, 2},
                                             {1, NAN, 2},
                                             {1, 2, NAN},
                                             {1, INFINITY, 2},
                                             {-INFINITY, -INFINITY, -INFINITY}}) {
      std::vector<float> scores = broken;
      PhiloxStream random(1, 0);
      CHECK_THROWS_WITH_AS(choose_token(scores, {}, {.greedy = greedy}, random), doctest::Contains("not finite"),
                           Error);
    }
}

}  // namespace
}  // namespace cbtm
