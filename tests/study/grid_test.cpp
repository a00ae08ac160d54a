// What a study consists of, and how it is divided.

#include "cbtm/study/grid.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "cbtm/base/error.h"
#include "tests/study/synthetic.h"

namespace cbtm::study {
namespace {

std::vector<std::string> names_of(const std::vector<Cell>& cells) {
  std::vector<std::string> names;
  for (const Cell& cell : cells) names.push_back(cell.name());
  return names;
}

TEST_CASE("the grid holds dense models once for each budget, and each clustering with its own part") {
  Config config = synthetic_config();
  config.seeds = 1;
  config.learning_rates = {0.003, 0.006};
  config.clusterings[1].axis = {{4}, {16384}};
  config.larger = {.shape = {.preset = "micro"}, .axis = {{1, 2}, {16384}}};
  config.mixtures = {{8}, {8192}};
  check_config(config);
  const std::vector<std::string> names = names_of(cells_of(config));
  const std::vector<std::string> systems = {"dense-b8192",        "balanced-k2-b8192",   "balanced-k4-b8192",
                                            "domains-k4-b8192",   "dense-b16384",        "balanced-k2-b16384",
                                            "balanced-k4-b16384", "random-k4-b16384",    "domains-k4-b16384",
                                            "moe-e8-b8192",       "larger-dense-b16384", "larger-balanced-k2-b16384"};
  std::vector<std::string> expected;
  for (const std::string& system : systems)
    for (const char* rate : {"0.003", "0.006"}) expected.push_back(system + "-r" + rate + "-s1");
  CHECK(names == expected);
}

TEST_CASE("every cell has a name of its own") {
  const std::vector<std::string> names = names_of(cells_of(synthetic_config()));
  CHECK(std::set<std::string>(names.begin(), names.end()).size() == names.size());
}

TEST_CASE("parts are disjoint, hold everything together, and are about equal in work") {
  const std::vector<Cell> cells = cells_of(synthetic_config());
  std::vector<double> costs;
  for (const Cell& cell : cells) costs.push_back(static_cast<double>(cell.system.budget));
  const double all = std::accumulate(costs.begin(), costs.end(), 0.0);
  for (const int64_t parts : {1, 2, 3, 5}) {
    CAPTURE(parts);
    std::vector<Cell> together;
    for (int64_t part = 1; part <= parts; ++part) {
      const std::vector<Cell> own = cells_of_part(cells, costs, part, parts);
      CHECK(own == cells_of_part(cells, costs, part, parts));
      double work = 0;
      for (const Cell& cell : own) work += static_cast<double>(cell.system.budget);
      CHECK(std::abs(work - all / static_cast<double>(parts)) <= 16384);  // the largest cell
      together.insert(together.end(), own.begin(), own.end());
    }
    std::sort(together.begin(), together.end());
    std::vector<Cell> sorted = cells;
    std::sort(sorted.begin(), sorted.end());
    CHECK(together == sorted);
  }
}

TEST_CASE("kinds of systems have names") {
  for (const SystemKind kind : {SystemKind::dense, SystemKind::ensemble, SystemKind::moe})
    CHECK(parse_kind(kind_name(kind)) == kind);
  CHECK_THROWS_WITH_AS(parse_kind("forest"), doctest::Contains("'forest' is no kind of system"), Error);
}

}  // namespace
}  // namespace cbtm::study
