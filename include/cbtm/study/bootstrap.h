#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace cbtm::study {

/// An estimate with its 95 % interval and its value for each random seed.
struct Estimate {
  double value = 0;
  double low = 0, high = 0;     ///< percentile interval of the bootstrap over documents
  std::vector<double> by_seed;  ///< the same quantity of each seed alone
};

/// Bootstrap over documents (docs/study.md, 'Error bars'). Resample r draws as many documents as there are, with
/// replacement, by a counter-based generator: the same draws for every quantity, so that all comparisons are paired.
class Bootstrap {
 public:
  /// `tokens`: the scored tokens of each document. At least one document has some.
  Bootstrap(std::vector<int64_t> tokens, int64_t resamples, uint64_t seed);

  int64_t documents() const { return static_cast<int64_t>(tokens_.size()); }
  int64_t resamples() const { return resamples_; }

  /// Loss per token in nats: the sum over documents of `losses` [documents] over the sum of their tokens.
  double mean(std::span<const double> losses) const;
  /// The same in each resample: [resamples]. A resample without a token, possible only with very few documents, repeats
  /// the value of the whole.
  std::vector<double> resampled_means(std::span<const double> losses) const;

  /// The mean over the seeds of mean(differences[seed]), with its interval. `differences` is [seeds][documents].
  Estimate estimate(const std::vector<std::vector<double>>& differences) const;

 private:
  std::vector<int64_t> tokens_;
  int64_t resamples_;
  std::vector<uint16_t> counts_;           ///< [resamples, documents]: how often each was drawn
  std::vector<int64_t> resampled_tokens_;  ///< [resamples]
};

/// The 2.5 % and 97.5 % points: with n sorted values, those at floor(0.025 n) and at n - 1 - floor(0.025 n).
void percentile_interval(std::vector<double> values, double& low, double& high);

}  // namespace cbtm::study
