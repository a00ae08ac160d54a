#include "cbtm/study/results.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "cbtm/base/error.h"

namespace cbtm::study {
namespace {

/// The cells of a system by learning rate and random seed.
using CellsOfSystem = std::map<double, std::map<uint64_t, const CellResult*>>;

std::map<System, CellsOfSystem> by_system(const std::vector<CellResult>& cells) {
  std::map<System, CellsOfSystem> systems;
  for (const CellResult& cell : cells) systems[cell.cell.system][cell.cell.learning_rate][cell.cell.seed] = &cell;
  return systems;
}

bool has_all_rates(const CellsOfSystem& rates, uint64_t seed) {
  return std::all_of(rates.begin(), rates.end(), [&](const auto& rate) { return rate.second.contains(seed); });
}

}  // namespace

double Entry::perplexity(const Bootstrap& bootstrap, size_t seed) const {
  return std::exp(bootstrap.mean(*losses[seed]));
}

double Entry::mean_perplexity(const Bootstrap& bootstrap) const {
  double loss = 0;
  for (const std::vector<double>* of_seed : losses) loss += bootstrap.mean(*of_seed);
  return std::exp(loss / static_cast<double>(losses.size()));
}

Results::Results(const Config& config, std::vector<CellResult> cells) : config_(config), cells_(std::move(cells)) {
  if (cells_.empty()) return;
  std::vector<int64_t> tokens;
  int64_t scored = 0;
  for (const ScoredDocument& document : documents()) {
    tokens.push_back(document.tokens);
    scored += document.tokens;
  }
  if (scored == 0) fail("the cell {} scored no token; make it again", cells_.front().cell.name());
  for (const CellResult& cell : cells_)
    if (cell.documents != documents())
      fail("the cells {} and {} were scored on different documents, so that they cannot be compared; make them again",
           cells_.front().cell.name(), cell.cell.name());
  bootstrap_.emplace(std::move(tokens), config_.resamples, config_.bootstrap_seed);
  choose_rates();
  add_entries();
}

void Results::choose_rates() {
  for (const auto& [system, rates] : by_system(cells_)) {
    Sweep sweep{.system = system};
    std::vector<uint64_t> seeds;
    for (const auto& [seed, cell] : rates.begin()->second)
      if (has_all_rates(rates, seed)) seeds.push_back(seed);
    double best = INFINITY;
    for (const auto& [rate, of_rate] : rates) {
      double loss = 0;
      for (const uint64_t seed : seeds) loss += of_rate.at(seed)->tune_loss / static_cast<double>(seeds.size());
      if (seeds.empty()) loss = of_rate.begin()->second->tune_loss;  // of an unfinished study
      sweep.losses.emplace_back(rate, loss);
      if (loss >= best) continue;
      best = loss;
      sweep.chosen = rate;
    }
    rates_[system] = sweep.chosen;
    sweeps_.push_back(std::move(sweep));
  }
}

void Results::add_entries() {
  std::map<std::tuple<System, std::string, int64_t>, Entry> entries;
  const std::map<System, CellsOfSystem> systems = by_system(cells_);
  for (const auto& [system, rates] : systems)
    for (const auto& [seed, cell] : rates.at(rates_.at(system)))
      for (const SystemScore& score : cell->scores) {
        Entry& entry = entries[{system, score.router, score.top_k}];
        entry.system = system;
        entry.router = score.router;
        entry.top_k = score.top_k;
        entry.is_main = score.router == main_router(system, config_.routers) &&
                        (system.kind != SystemKind::ensemble || score.top_k == system.k);
        entry.learning_rate = rates_.at(system);
        entry.tune_loss += cell->tune_loss;
        entry.seeds.push_back(seed);
        entry.losses.push_back(&score.losses);
        entry.temperatures.push_back(score.temperature);
        entry.training_flops = cell->training_flops;
        entry.active_flops = cell->forward_flops * static_cast<double>(score.top_k);
        entry.parameters = cell->parameters;
      }
  for (auto& [key, entry] : entries) {
    entry.tune_loss /= static_cast<double>(entry.seeds.size());
    entries_.push_back(std::move(entry));
  }
}

const Entry* Results::find(const System& system, const std::string& router, int64_t top_k) const {
  const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) {
    return entry.system == system && entry.router == router && entry.top_k == top_k;
  });
  return found == entries_.end() ? nullptr : &*found;
}

const Entry* Results::main(const System& system) const {
  return find(system, main_router(system, config_.routers), system.kind == SystemKind::ensemble ? system.k : 1);
}

const Entry* Results::dense(int64_t budget) const { return main({.budget = budget}); }

Clustering Results::learned_kind() const {
  for (const ClusteringAxis& clustering : config_.clusterings)
    if (is_kmeans(clustering.kind)) return clustering.kind;
  return Clustering::balanced;
}

const Entry* Results::learned(int64_t k, int64_t budget) const {
  if (k == 1) return dense(budget);
  return main({.kind = SystemKind::ensemble, .clustering = learned_kind(), .k = k, .budget = budget});
}

std::optional<Estimate> Results::contrast(const std::vector<Term>& terms) const {
  for (const Term& term : terms)
    if (term.entry == nullptr) return std::nullopt;
  std::vector<std::vector<double>> differences;
  for (const uint64_t seed : terms.front().entry->seeds) {
    std::vector<double> difference(documents().size(), 0.0);
    const bool everywhere = std::all_of(terms.begin(), terms.end(), [&](const Term& term) {
      const std::vector<uint64_t>& seeds = term.entry->seeds;
      const auto found = std::find(seeds.begin(), seeds.end(), seed);
      if (found == seeds.end()) return false;
      const std::vector<double>& losses = *term.entry->losses[static_cast<size_t>(found - seeds.begin())];
      for (size_t i = 0; i < losses.size(); ++i) difference[i] += term.factor * losses[i];
      return true;
    });
    if (everywhere) differences.push_back(std::move(difference));
  }
  if (differences.empty()) return std::nullopt;
  return bootstrap_->estimate(differences);
}

}  // namespace cbtm::study
