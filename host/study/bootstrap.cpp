#include "cbtm/study/bootstrap.h"

#include <algorithm>
#include <numeric>

#include "cbtm/base/error.h"
#include "cbtm/base/philox.h"
#include "cbtm/base/threads.h"

namespace cbtm::study {

Bootstrap::Bootstrap(std::vector<int64_t> tokens, int64_t resamples, uint64_t seed)
    : tokens_(std::move(tokens)), resamples_(resamples) {
  CBTM_ASSERT(std::accumulate(tokens_.begin(), tokens_.end(), int64_t{0}) > 0, "an evaluation scores some tokens");
  const size_t count = tokens_.size();
  counts_.assign(static_cast<size_t>(resamples) * count, 0);
  resampled_tokens_.assign(static_cast<size_t>(resamples), 0);
  parallel_ranges(resamples, static_cast<double>(count) * 10, [&](int64_t begin, int64_t end) {
    for (auto r = static_cast<size_t>(begin); r < static_cast<size_t>(end); ++r) {
      PhiloxStream random(seed, r);
      for (size_t draw = 0; draw < count; ++draw) {
        const size_t document = random.next_below(count);
        uint16_t& drawn = counts_[r * count + document];
        if (drawn == UINT16_MAX) continue;  // 65,535 draws of one document do not happen
        ++drawn;
        resampled_tokens_[r] += tokens_[document];
      }
    }
  });
}

double Bootstrap::mean(std::span<const double> losses) const {
  CBTM_ASSERT(losses.size() == tokens_.size(), "a loss for each document");
  double loss = 0;
  int64_t tokens = 0;
  for (size_t i = 0; i < losses.size(); ++i) {
    loss += losses[i];
    tokens += tokens_[i];
  }
  return loss / static_cast<double>(tokens);
}

std::vector<double> Bootstrap::resampled_means(std::span<const double> losses) const {
  const double whole = mean(losses);
  const size_t count = tokens_.size();
  std::vector<double> means(static_cast<size_t>(resamples_));
  parallel_ranges(resamples_, static_cast<double>(count), [&](int64_t begin, int64_t end) {
    for (auto r = static_cast<size_t>(begin); r < static_cast<size_t>(end); ++r) {
      double loss = 0;
      for (size_t i = 0; i < count; ++i) loss += counts_[r * count + i] * losses[i];
      means[r] = resampled_tokens_[r] > 0 ? loss / static_cast<double>(resampled_tokens_[r]) : whole;
    }
  });
  return means;
}

Estimate Bootstrap::estimate(const std::vector<std::vector<double>>& differences) const {
  CBTM_ASSERT(!differences.empty(), "there is a seed");
  Estimate result;
  std::vector<double> sum(tokens_.size(), 0.0);
  for (const std::vector<double>& of_seed : differences) {
    result.by_seed.push_back(mean(of_seed));
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += of_seed[i] / static_cast<double>(differences.size());
  }
  result.value = mean(sum);
  percentile_interval(resampled_means(sum), result.low, result.high);
  return result;
}

void percentile_interval(std::vector<double> values, double& low, double& high) {
  std::sort(values.begin(), values.end());
  const auto cut = static_cast<size_t>(0.025 * static_cast<double>(values.size()));
  low = values[cut];
  high = values[values.size() - 1 - cut];
}

}  // namespace cbtm::study
