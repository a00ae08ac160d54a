#include "cbtm/route/routing_method.h"

#include <fmt/format.h>

#include <algorithm>

#include "cbtm/base/error.h"

namespace cbtm {

void TextRouting::observe(std::span<const double>) {}

std::vector<double> RoutingMethod::carry(const TextRouting&, std::vector<double>) const { return {}; }

namespace {

class DistanceRouting : public RoutingMethod {
 public:
  DistanceRouting(const Mixture& mixture, std::vector<uint8_t> present, std::string name, const Router* router)
      : mixture_(mixture),
        present_(std::move(present)),
        router_(router),
        name_(!name.empty()
                  ? std::move(name)
                  : fmt::format("distance:temperature={}:power={}", mixture.temperature, mixture.distance_power)) {}

  const std::string& name() const override { return name_; }
  int64_t top_k() const override { return mixture_.top_k; }
  bool uses_distances() const override { return true; }
  const Router* router() const override { return router_; }

  /// Those of the top k, even if their weights underflow to 0.
  void wanted(int64_t, std::span<const double> squared_distances, std::span<uint8_t> out) const override {
    std::vector<double> weights(out.size());
    const Mixture warm{.top_k = mixture_.top_k, .temperature = 1e6, .distance_power = mixture_.distance_power};
    routing_weights(squared_distances, warm, present_, weights);
    for (size_t j = 0; j < out.size(); ++j) out[j] = weights[j] > 0 ? 1 : 0;
  }

  std::unique_ptr<TextRouting> begin(std::span<const double>) const override;

  const Mixture& mixture() const { return mixture_; }
  const std::vector<uint8_t>& present() const { return present_; }

 private:
  Mixture mixture_;
  std::vector<uint8_t> present_;
  const Router* router_;
  std::string name_;
};

class DistanceText : public TextRouting {
 public:
  explicit DistanceText(const DistanceRouting& method) : method_(method) {}
  void weights(std::span<const double> squared_distances, std::span<double> out) const override {
    routing_weights(squared_distances, method_.mixture(), method_.present(), out);
  }

 private:
  const DistanceRouting& method_;
};

std::unique_ptr<TextRouting> DistanceRouting::begin(std::span<const double>) const {
  return std::make_unique<DistanceText>(*this);
}

class UniformText : public TextRouting {
 public:
  explicit UniformText(const std::vector<double>& weights) : weights_(weights) {}
  void weights(std::span<const double>, std::span<double> out) const override {
    std::copy(weights_.begin(), weights_.end(), out.begin());
  }

 private:
  const std::vector<double>& weights_;
};

class UniformRouting : public RoutingMethod {
 public:
  explicit UniformRouting(std::vector<uint8_t> present)
      : present_(std::move(present)), weights_(kept_prior(std::vector<double>(present_.size(), 1.0), present_, 0)) {}

  const std::string& name() const override { return name_; }
  int64_t top_k() const override { return std::count(present_.begin(), present_.end(), uint8_t{1}); }
  void wanted(int64_t, std::span<const double>, std::span<uint8_t> out) const override {
    std::copy(present_.begin(), present_.end(), out.begin());
  }
  std::unique_ptr<TextRouting> begin(std::span<const double>) const override {
    return std::make_unique<UniformText>(weights_);
  }

 private:
  std::vector<uint8_t> present_;
  std::vector<double> weights_;
  std::string name_ = "uniform";
};

}  // namespace

std::unique_ptr<RoutingMethod> distance_routing(const Mixture& mixture, std::vector<uint8_t> present, std::string name,
                                                const Router* router) {
  return std::make_unique<DistanceRouting>(mixture, std::move(present), std::move(name), router);
}

std::unique_ptr<RoutingMethod> uniform_routing(std::vector<uint8_t> present) {
  return std::make_unique<UniformRouting>(std::move(present));
}

}  // namespace cbtm
