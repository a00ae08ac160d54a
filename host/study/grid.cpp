#include "cbtm/study/grid.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "cbtm/base/error.h"

namespace cbtm::study {
namespace {

constexpr SystemKind kKinds[] = {SystemKind::dense, SystemKind::ensemble, SystemKind::moe};

bool has(const std::vector<int64_t>& values, int64_t value) {
  return std::find(values.begin(), values.end(), value) != values.end();
}

/// The dense model and the ensembles of one shape.
void add_systems(const Config& config, bool larger, const Axis& axis, std::vector<System>& systems) {
  for (const int64_t budget : axis.budgets) {
    if (has(axis.k, 1)) systems.push_back({.larger = larger, .budget = budget});
    for (const ClusteringAxis& clustering : config.clusterings) {
      if (larger && !is_kmeans(clustering.kind)) continue;  // larger experts repeat the main comparison only
      for (const int64_t k : clustering.axis.k)
        if (has(axis.k, k) && has(clustering.axis.budgets, budget))
          systems.push_back({.kind = SystemKind::ensemble,
                             .larger = larger,
                             .clustering = clustering.kind,
                             .k = k,
                             .budget = budget});
      if (larger) break;  // by the first k-means
    }
  }
}

}  // namespace

const char* kind_name(SystemKind kind) {
  switch (kind) {
    case SystemKind::dense: return "dense";
    case SystemKind::ensemble: return "ensemble";
    case SystemKind::moe: return "moe";
  }
  return "";
}

SystemKind parse_kind(const std::string& name) {
  for (const SystemKind kind : kKinds)
    if (name == kind_name(kind)) return kind;
  fail("'{}' is no kind of system; known are dense, ensemble and moe", name);
}

std::string System::name() const {
  const std::string what = kind == SystemKind::dense ? "dense"
                           : kind == SystemKind::moe ? fmt::format("moe-e{}", k)
                                                     : fmt::format("{}-k{}", clustering_name(clustering), k);
  return fmt::format("{}{}-b{}", larger ? "larger-" : "", what, budget);
}

std::string Cell::name() const { return fmt::format("{}-r{}-s{}", system.name(), learning_rate, seed); }

std::vector<System> systems_of(const Config& config) {
  std::vector<System> systems;
  add_systems(config, false, config.axis, systems);
  for (const int64_t budget : config.mixtures.budgets)
    for (const int64_t experts : config.mixtures.experts)
      systems.push_back({.kind = SystemKind::moe, .k = experts, .budget = budget});
  if (config.larger.shape.given()) add_systems(config, true, config.larger.axis, systems);
  return systems;
}

std::vector<Cell> cells_of(const Config& config) {
  std::vector<Cell> cells;
  for (const uint64_t seed : config.seed_numbers())
    for (const System& system : systems_of(config))
      for (const double rate : config.learning_rates)
        cells.push_back({.system = system, .learning_rate = rate, .seed = seed});
  return cells;
}

std::vector<Cell> cells_of_part(const std::vector<Cell>& cells, const std::vector<double>& costs, int64_t part,
                                int64_t parts) {
  CBTM_ASSERT(cells.size() == costs.size(), "each cell has a cost");
  CBTM_ASSERT(part >= 1 && part <= parts, "the command line checks it");
  std::vector<size_t> order(cells.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return costs[a] > costs[b]; });
  std::vector<double> work(static_cast<size_t>(parts), 0.0);
  std::vector<size_t> own;
  for (const size_t i : order) {
    const auto least = std::min_element(work.begin(), work.end()) - work.begin();
    work[static_cast<size_t>(least)] += costs[i];
    if (least == part - 1) own.push_back(i);
  }
  std::sort(own.begin(), own.end());
  std::vector<Cell> result;
  for (const size_t i : own) result.push_back(cells[i]);
  return result;
}

}  // namespace cbtm::study
