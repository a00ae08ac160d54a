#pragma once

#include <cmath>
#include <functional>
#include <vector>

#include "cbtm/base/hash.h"
#include "cbtm/base/philox.h"
#include "cbtm/study/cell_result.h"
#include "cbtm/study/config.h"
#include "cbtm/study/grid.h"

namespace cbtm::study {

/// k 1, 2, 4; two budgets; balanced, random and domains (k 4); three seeds.
inline Config synthetic_config() {
  Config config;
  config.axis = {{1, 2, 4}, {8192, 16384}};
  config.clusterings = {
      {.kind = Clustering::balanced}, {.kind = Clustering::random}, {.kind = Clustering::domains, .axis = {{4}, {}}}};
  config.learning_rates = {0.003};
  config.shape.preset = "nano";
  config.seed_tokens = 8192;
  config.batch_tokens = 4096;
  config.vocab_size = 1024;
  check_config(config);
  return config;
}

/// Nats per token of a way to use a cell.
using LossOf = std::function<double(const Cell& cell, const std::string& router, int64_t top_k)>;

/// A result whose documents have about this loss per token: each document has a level of its own, which all systems
/// share, and a little noise, which they do not.
inline CellResult synthetic_result(const Cell& cell, const LossOf& loss_of, int64_t documents = 40) {
  CellResult result{.cell = cell,
                    .recipe = {{"made", "up"}},
                    .parameters = 1000 * (cell.system.larger ? 8 : 1),
                    .training_tokens = cell.system.budget,
                    .training_steps = 2,
                    .training_flops = 6e3 * static_cast<double>(cell.system.budget) * (cell.system.larger ? 8 : 1),
                    .forward_flops = 2e3 * (cell.system.larger ? 8 : 1)};
  PhiloxStream levels(7, 0);
  for (int64_t i = 0; i < documents; ++i)
    result.documents.push_back({"document " + std::to_string(i), 20 + static_cast<int64_t>(levels.next_below(200))});
  PhiloxStream noise(11, hash64(cell.name()));
  const auto add = [&](const std::string& router, int64_t top_k) {
    PhiloxStream level(13, 0);
    SystemScore score{.router = router, .top_k = top_k};
    if (router == "tfidf") score.temperature = 0.05;
    for (const ScoredDocument& document : result.documents) {
      const double per_token = loss_of(cell, router, top_k) + level.next_uniform() + 0.02 * noise.next_normal();
      score.losses.push_back(per_token * static_cast<double>(document.tokens));
    }
    result.scores.push_back(score);
  };
  if (cell.system.kind != SystemKind::ensemble) {
    add("", 1);
  } else {
    for (int64_t top_k = 1; top_k < cell.system.k; top_k *= 2) add("tfidf", top_k);
    add("tfidf", cell.system.k);
    add("posterior", cell.system.k);
    add("uniform", cell.system.k);
    for (int64_t expert = 0; expert < cell.system.k; ++expert) {
      result.matrix.emplace_back();
      for (int64_t cluster = 0; cluster < cell.system.k; ++cluster)
        result.matrix.back().push_back(expert == cluster ? 40.5 : 50.25 + static_cast<double>(cluster));
    }
    result.shards.assign(static_cast<size_t>(cell.system.k), cell.system.budget / cell.system.k);
  }
  result.tune_loss = loss_of(cell, main_router(cell.system, {"tfidf", "posterior", "uniform"}), cell.system.k) + 0.1;
  return result;
}

inline std::vector<CellResult> synthetic_results(const Config& config, const LossOf& loss_of) {
  std::vector<CellResult> results;
  for (const Cell& cell : cells_of(config)) results.push_back(synthetic_result(cell, loss_of));
  return results;
}

/// As in the papers: more clusters are better at the larger budget, two are best at the smaller one, random ones are no
/// better than dense, and few experts nearly equal all.
inline double as_published(const Cell& cell, const std::string& router, int64_t top_k) {
  const bool large = cell.system.budget > 8192;
  const double base = large ? 3.0 : 4.0;
  if (cell.system.kind == SystemKind::moe) return base + (large ? 0.1 : -0.3);
  if (cell.system.kind == SystemKind::dense) return base - (cell.system.larger ? 0.1 : 0);
  if (cell.system.larger) return base - 0.3;
  const double growth = large ? 0.15 * std::log2(static_cast<double>(cell.system.k)) : cell.system.k == 2 ? 0.1 : 0.05;
  if (cell.system.clustering == Clustering::random) return base;
  if (cell.system.clustering == Clustering::unbalanced)
    return base - growth + 0.02 * static_cast<double>(cell.system.k);
  if (cell.system.clustering == Clustering::domains) return base - growth / 2;
  return base - growth + (router == "uniform" ? 0.2 : 0) + 0.004 / static_cast<double>(top_k);
}

}  // namespace cbtm::study
