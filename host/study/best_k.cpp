#include <algorithm>
#include <cmath>

#include "cbtm/study/relations.h"

namespace cbtm::study {
namespace {

/// Loss per token by k, for each seed that all k have and for their mean, and in each resample of either.
struct Losses {
  std::vector<int64_t> k;
  std::vector<uint64_t> seeds;
  std::vector<std::vector<double>> by_seed;                         ///< [k][seeds]
  std::vector<double> mean;                                         ///< [k]
  std::vector<std::vector<double>> resampled;                       ///< [k][resamples]
  std::vector<std::vector<std::vector<double>>> resampled_by_seed;  ///< [k][seeds][resamples]
};

Losses losses_of(const Results& results, int64_t budget) {
  Losses losses;
  std::vector<const Entry*> entries;
  for (const int64_t k : results.config().axis.k)
    if (const Entry* entry = results.learned(k, budget)) {
      losses.k.push_back(k);
      entries.push_back(entry);
    }
  if (entries.empty()) return losses;
  std::vector<uint64_t>& seeds = losses.seeds;
  for (const uint64_t seed : entries.front()->seeds)
    if (std::all_of(entries.begin(), entries.end(), [&](const Entry* entry) {
          return std::find(entry->seeds.begin(), entry->seeds.end(), seed) != entry->seeds.end();
        }))
      seeds.push_back(seed);
  if (seeds.empty()) return {};
  for (const Entry* entry : entries) {
    std::vector<double> sum(results.documents().size(), 0.0);
    losses.by_seed.emplace_back();
    losses.resampled_by_seed.emplace_back();
    for (const uint64_t seed : seeds) {
      const auto place = std::find(entry->seeds.begin(), entry->seeds.end(), seed) - entry->seeds.begin();
      const std::vector<double>& of_seed = *entry->losses[static_cast<size_t>(place)];
      losses.by_seed.back().push_back(results.bootstrap().mean(of_seed));
      losses.resampled_by_seed.back().push_back(results.bootstrap().resampled_means(of_seed));
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += of_seed[i] / static_cast<double>(seeds.size());
    }
    losses.mean.push_back(results.bootstrap().mean(sum));
    losses.resampled.push_back(results.bootstrap().resampled_means(sum));
  }
  return losses;
}

/// The k of the lowest loss; of equal ones the smallest.
template <typename LossOf>
int64_t best_of(const std::vector<int64_t>& k, const LossOf& loss_of) {
  size_t best = 0;
  for (size_t i = 1; i < k.size(); ++i)
    if (loss_of(i) < loss_of(best)) best = i;
  return k[best];
}

/// Least squares of y on x; x has at least two different values.
struct Line {
  double intercept = 0, slope = 0;
};
Line fit_line(const std::vector<double>& x, const std::vector<double>& y) {
  const auto count = static_cast<double>(x.size());
  double mean_x = 0, mean_y = 0, square = 0, product = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    mean_x += x[i] / count;
    mean_y += y[i] / count;
  }
  for (size_t i = 0; i < x.size(); ++i) {
    square += (x[i] - mean_x) * (x[i] - mean_x);
    product += (x[i] - mean_x) * (y[i] - mean_y);
  }
  const double slope = product / square;
  return {mean_y - slope * mean_x, slope};
}

}  // namespace

std::vector<BestK> best_k(const Results& results) {
  std::vector<BestK> all;
  if (results.empty()) return all;
  for (const int64_t budget : results.config().axis.budgets) {
    const Losses losses = losses_of(results, budget);
    if (losses.k.size() < 2 || losses.k.size() != results.config().axis.k.size()) continue;
    BestK best{
        .budget = budget, .k = best_of(losses.k, [&](size_t i) { return losses.mean[i]; }), .seeds = losses.seeds};
    const size_t resamples = losses.resampled.front().size();
    for (size_t seed = 0; seed < losses.seeds.size(); ++seed) {
      best.by_seed.push_back(best_of(losses.k, [&](size_t i) { return losses.by_seed[i][seed]; }));
      best.resampled_by_seed.emplace_back();
      for (size_t r = 0; r < resamples; ++r)
        best.resampled_by_seed.back().push_back(
            best_of(losses.k, [&](size_t i) { return losses.resampled_by_seed[i][seed][r]; }));
    }
    for (size_t r = 0; r < resamples; ++r)
      best.resampled.push_back(best_of(losses.k, [&](size_t i) { return losses.resampled[i][r]; }));
    all.push_back(std::move(best));
  }
  return all;
}

std::optional<Fit> fit_best_k(const Results& results) {
  const std::vector<BestK> best = best_k(results);
  if (best.size() < 2) return std::nullopt;
  std::vector<double> x, y;
  for (const BestK& one : best)
    for (const int64_t k : one.by_seed) {
      x.push_back(std::log2(static_cast<double>(one.budget)));
      y.push_back(std::log2(static_cast<double>(k)));
    }
  const Line line = fit_line(x, y);
  std::vector<double> slopes;
  for (size_t r = 0; r < best.front().resampled.size(); ++r) {
    std::vector<double> of_resample;
    for (const BestK& one : best)
      for (const std::vector<int64_t>& of_seed : one.resampled_by_seed)
        of_resample.push_back(std::log2(static_cast<double>(of_seed[r])));
    slopes.push_back(fit_line(x, of_resample).slope);
  }
  Fit fit{.intercept = line.intercept,
          .slope = line.slope,
          .tokens_min = best.front().budget,
          .tokens_max = best.back().budget,
          .k_min = results.config().axis.k.front(),
          .k_max = results.config().axis.k.back()};
  percentile_interval(slopes, fit.slope_low, fit.slope_high);
  for (const Entry& entry : results.entries())
    if (!entry.system.larger && entry.system.kind == SystemKind::ensemble) fit.parameters = entry.parameters;
  return fit;
}

}  // namespace cbtm::study
