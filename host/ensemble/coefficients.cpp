#include "cbtm/ensemble/coefficients.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "cbtm/base/error.h"
#include "cbtm/base/numbers.h"
#include "cbtm/run/run_directory.h"

namespace cbtm {
namespace {

constexpr double kCoefficientMax = 100;

std::string names_of(const ExpertSet& experts) {
  std::string names;
  for (const Expert& expert : experts.experts())
    names += (names.empty() ? "" : ", ") + RunDirectory::cluster_name(expert.cluster);
  return names;
}

}  // namespace

int64_t find_expert(const ExpertSet& experts, const std::string& name) {
  const std::string digits = name.starts_with("expert-") ? name.substr(7) : name;
  const std::optional<uint64_t> number = parse_unsigned(digits);
  if (!number || *number >= experts.present().size() || experts.present()[*number] == 0) return -1;
  return static_cast<int64_t>(*number);
}

std::vector<double> coefficients_of(const ExpertSet& experts,
                                    const std::vector<std::pair<std::string, double>>& named) {
  std::vector<double> coefficients(experts.present().size(), 0);
  std::set<int64_t> seen;
  for (const auto& [name, value] : named) {
    const int64_t cluster = find_expert(experts, name);
    if (cluster < 0) fail("coefficients: there is no expert '{}'; there are {}", name, names_of(experts));
    if (!seen.insert(cluster).second) fail("coefficients: expert '{}' is named twice", name);
    if (!std::isfinite(value) || std::abs(value) > kCoefficientMax)
      fail("coefficients: that of '{}' is {}; it must be a number from {} to {}", name, value, -kCoefficientMax,
           kCoefficientMax);
    coefficients[static_cast<size_t>(cluster)] = value;
  }
  if (std::ranges::all_of(coefficients, [](double value) { return value == 0; }))
    fail("coefficients: all are 0; give at least one expert another one, such as {}=1",
         RunDirectory::cluster_name(experts.experts().front().cluster));
  return coefficients;
}

std::vector<double> expert_shares(std::vector<double> weights) {
  double sum = 0;
  for (const double weight : weights) sum += std::abs(weight);
  for (double& weight : weights) weight = std::abs(weight) / sum;
  return weights;
}

}  // namespace cbtm
