#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cbtm/route/mixture.h"

namespace cbtm {

class Router;

/// The weights of the experts along one text, by one method. Not thread-safe. Its method must outlive it.
class TextRouting {
 public:
  virtual ~TextRouting() = default;

  /// The experts' weights for the next token: [clusters], their sum is 1. `squared_distances` are the router's
  /// (RoutingContext), [clusters]; only methods that use distances look at them.
  virtual void weights(std::span<const double> squared_distances, std::span<double> out) const = 0;
  /// The next token has come. `log_probabilities` are the natural logarithms of the probabilities that the experts gave
  /// to it: [clusters], of which only those of wanted experts are looked at. Not called for the first token of a text,
  /// which nothing predicts, nor for methods that do not use probabilities.
  virtual void observe(std::span<const double> log_probabilities);
  /// The prior that the text began with; empty for methods without one.
  virtual std::vector<double> prior() const { return {}; }
};

/// How experts are weighed: a kind of router with its options. Three sorts of evidence may be used: how far the text is
/// from the clusters (Router), the probabilities that the experts gave to the text so far, and what came out for texts
/// before. Whoever calls provides the evidence; a method says what it needs. Its data never changes, and it is safe to
/// share between threads.
class RoutingMethod {
 public:
  virtual ~RoutingMethod() = default;

  /// As --router names it, with the options that are not defaults.
  virtual const std::string& name() const = 0;
  /// Experts of non-zero weight at most.
  virtual int64_t top_k() const = 0;
  virtual bool uses_distances() const { return false; }
  /// Whose distances it looks at; null: those of the experts' own router.
  virtual const Router* router() const { return nullptr; }
  virtual bool uses_probabilities() const { return false; }
  /// What a text begins with depends on the texts before it, so that texts must come in order.
  virtual bool carries_over() const { return false; }

  /// Marks the experts that must predict the token after the first `position` tokens (1 or more) of a text: those that
  /// may have a weight there, and those whose probabilities observe() looks at. Depends on no expert's output, so that
  /// the experts' work can be planned.
  virtual void wanted(int64_t position, std::span<const double> squared_distances, std::span<uint8_t> out) const = 0;
  /// A new text. `carried` is what carry() returned last; empty for the first text.
  virtual std::unique_ptr<TextRouting> begin(std::span<const double> carried = {}) const = 0;
  /// What the next text begins with, when `text` has been observed to its end.
  virtual std::vector<double> carry(const TextRouting& text, std::vector<double> carried) const;
};

/// By distance from the clusters (docs/method.md, 'Routing'): kinds "tfidf" and "prefix". `present` marks the clusters
/// that may be used, one entry for each. An empty `name` stands for one made of the mixture. `router`: as
/// RoutingMethod::router; it must outlive the method.
std::unique_ptr<RoutingMethod> distance_routing(const Mixture& mixture, std::vector<uint8_t> present,
                                                std::string name = "", const Router* router = nullptr);

/// All experts that are present weigh the same: kind "uniform".
std::unique_ptr<RoutingMethod> uniform_routing(std::vector<uint8_t> present);

/// The evidence that a posterior stands on.
enum class Likelihood : uint8_t {
  exact,  ///< all tokens so far: Bayes' rule
  last    ///< the last token alone, as in the published programs
};

struct PosteriorOptions {
  Likelihood likelihood = Likelihood::exact;
  std::vector<double> prior;    ///< [clusters]; empty: uniform
  bool updating = false;        ///< the prior moves from text to text; then `prior` is empty
  int64_t top_k = 0;            ///< experts of the largest prior that are kept; 0: all. Needs a prior that is given
  bool first_from_all = false;  ///< Likelihood::last: weights of the first token are equal over all experts, also over
                                ///< those that are cut, which then read one token of each text
};

/// The share of the weight that a text's last posterior gets in the updating prior.
inline constexpr double kPriorUpdate = 0.3;

/// By the posterior probability of each expert, given what it predicted so far (docs/method.md, 'Posterior routing'):
/// kind "posterior", of Branch-Train-Merge.
std::unique_ptr<RoutingMethod> posterior_routing(const PosteriorOptions& options, std::vector<uint8_t> present,
                                                 std::string name = "");

/// `prior` over the experts that are present, with its `top_k` largest entries kept (0: all; ties: the lower index),
/// divided by their sum. Throws Error if they are all zero.
std::vector<double> kept_prior(std::span<const double> prior, std::span<const uint8_t> present, int64_t top_k);

}  // namespace cbtm
