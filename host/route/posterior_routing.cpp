#include <algorithm>
#include <cmath>
#include <numeric>

#include "cbtm/base/error.h"
#include "cbtm/route/routing_method.h"

namespace cbtm {

std::vector<double> kept_prior(std::span<const double> prior, std::span<const uint8_t> present, int64_t top_k) {
  CBTM_ASSERT(prior.size() == present.size(), "a prior has an entry for each cluster");
  std::vector<size_t> order;
  for (size_t j = 0; j < prior.size(); ++j)
    if (present[j] != 0) order.push_back(j);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return prior[a] > prior[b]; });
  if (top_k > 0) order.resize(std::min(order.size(), static_cast<size_t>(top_k)));
  double sum = 0;
  for (const size_t j : order) sum += prior[j];
  if (!(sum > 0) || !std::isfinite(sum)) fail("the prior gives nothing to any expert that is present; fit it again");
  std::vector<double> kept(prior.size(), 0.0);
  for (const size_t j : order) kept[j] = prior[j] / sum;
  return kept;
}

namespace {

class PosteriorRouting : public RoutingMethod {
 public:
  PosteriorRouting(const PosteriorOptions& options, std::vector<uint8_t> present, std::string name)
      : options_(options), present_(std::move(present)), name_(std::move(name)) {
    CBTM_ASSERT(!options.updating || options.prior.empty(), "an updating prior begins uniform");
    CBTM_ASSERT(options.top_k == 0 || !options.prior.empty(), "what is cut is chosen by a prior that is given");
    uniform_ = kept_prior(std::vector<double>(present_.size(), 1.0), present_, 0);
    prior_ = options.prior.empty() ? uniform_ : kept_prior(options.prior, present_, options.top_k);
    if (name_.empty()) name_ = options.likelihood == Likelihood::exact ? "posterior:exact" : "posterior:last";
  }

  const std::string& name() const override { return name_; }
  int64_t top_k() const override {
    return std::count_if(prior_.begin(), prior_.end(), [](double prior) { return prior > 0; });
  }
  bool uses_probabilities() const override { return true; }
  bool carries_over() const override { return options_.updating; }

  void wanted(int64_t position, std::span<const double>, std::span<uint8_t> out) const override {
    const bool all = options_.updating || (position == 1 && options_.first_from_all);
    for (size_t j = 0; j < out.size(); ++j) out[j] = present_[j] != 0 && (all || prior_[j] > 0) ? 1 : 0;
  }

  std::unique_ptr<TextRouting> begin(std::span<const double> carried) const override;
  std::vector<double> carry(const TextRouting& text, std::vector<double> carried) const override;

  const PosteriorOptions& options() const { return options_; }
  const std::vector<double>& prior() const { return prior_; }
  const std::vector<double>& uniform() const { return uniform_; }

 private:
  PosteriorOptions options_;
  std::vector<uint8_t> present_;
  std::string name_;
  std::vector<double> uniform_;  ///< over all that are present
  std::vector<double> prior_;    ///< over those that are kept
};

class PosteriorText : public TextRouting {
 public:
  PosteriorText(const PosteriorRouting& method, std::vector<double> prior)
      : method_(method), prior_(std::move(prior)), likelihood_(prior_.size(), 0.0) {}

  void weights(std::span<const double>, std::span<double> out) const override {
    if (observed_ == 0) {
      first(out);
      return;
    }
    // In log space, relative to the largest: the sums reach hundreds, and only their differences count.
    double highest = -INFINITY;
    for (size_t j = 0; j < prior_.size(); ++j) highest = std::max(highest, logarithm(j));
    if (!std::isfinite(highest)) {  // nobody thought the text possible, so it says nothing
      std::copy(prior_.begin(), prior_.end(), out.begin());
      return;
    }
    double sum = 0;
    for (size_t j = 0; j < prior_.size(); ++j) sum += out[j] = std::exp(logarithm(j) - highest);
    for (double& weight : out) weight /= sum;
  }

  void observe(std::span<const double> log_probabilities) override {
    posterior_.resize(prior_.size());
    weights({}, posterior_);
    const bool exact = method_.options().likelihood == Likelihood::exact;
    for (size_t j = 0; j < prior_.size(); ++j)
      if (prior_[j] > 0) likelihood_[j] = log_probabilities[j] + (exact ? likelihood_[j] : 0.0);
    ++observed_;
  }

  std::vector<double> prior() const override { return prior_; }
  /// The weights that the last token was predicted with; empty before any was.
  const std::vector<double>& posterior() const { return posterior_; }

 private:
  /// Bayes' rule knows nothing but the prior yet. The published programs have equal weights there.
  void first(std::span<double> out) const {
    if (method_.options().likelihood == Likelihood::exact) {
      std::copy(prior_.begin(), prior_.end(), out.begin());
    } else if (method_.options().first_from_all || method_.options().updating) {
      std::copy(method_.uniform().begin(), method_.uniform().end(), out.begin());
    } else {
      const auto kept = std::count_if(prior_.begin(), prior_.end(), [](double prior) { return prior > 0; });
      for (size_t j = 0; j < prior_.size(); ++j) out[j] = prior_[j] > 0 ? 1.0 / static_cast<double>(kept) : 0.0;
    }
  }

  double logarithm(size_t j) const { return prior_[j] > 0 ? std::log(prior_[j]) + likelihood_[j] : -INFINITY; }

  const PosteriorRouting& method_;
  std::vector<double> prior_;
  std::vector<double> likelihood_;  ///< ln of the evidence for each expert
  std::vector<double> posterior_;
  int64_t observed_ = 0;
};

std::unique_ptr<TextRouting> PosteriorRouting::begin(std::span<const double> carried) const {
  const bool begun = options_.updating && !carried.empty();
  return std::make_unique<PosteriorText>(*this, begun ? std::vector<double>(carried.begin(), carried.end()) : prior_);
}

std::vector<double> PosteriorRouting::carry(const TextRouting& text, std::vector<double> carried) const {
  if (!options_.updating) return {};
  const std::vector<double>& posterior = dynamic_cast<const PosteriorText&>(text).posterior();
  if (posterior.empty()) return carried;  // no token was predicted
  if (carried.empty()) return posterior;
  for (size_t j = 0; j < carried.size(); ++j)
    carried[j] = (1 - kPriorUpdate) * carried[j] + kPriorUpdate * posterior[j];
  return carried;
}

}  // namespace

std::unique_ptr<RoutingMethod> posterior_routing(const PosteriorOptions& options, std::vector<uint8_t> present,
                                                 std::string name) {
  return std::make_unique<PosteriorRouting>(options, std::move(present), std::move(name));
}

}  // namespace cbtm
