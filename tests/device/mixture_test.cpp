// Tokens drawn from a mixture of experts, with probabilities worked out by hand.

#include "cbtm/device/model_operators.h"
#include "tests/device/operands.h"

namespace cbtm {
namespace {

/// Expert 0 gives the rows {0.5, 0.25, 0.25, 0} and (unused) zeros, expert 1 {0.1, 0.1, 0.1, 0.7}, as logits.
struct TwoExperts {
  std::vector<float> first = {std::log(0.5f), std::log(0.25f), std::log(0.25f), -INFINITY, 0, 0, 0, 0};
  std::vector<float> second = {std::log(0.1f) + 5, std::log(0.1f) + 5, std::log(0.1f) + 5, std::log(0.7f) + 5};
  std::vector<float> weights = {1, 0, 0.5f, 0.5f};
  std::vector<int32_t> rows = {0, 99, 0, 0};  // a row that is not used is not read

  /// Of the two sequences: expert 0 alone, and both: {0.3, 0.175, 0.175, 0.35}.
  std::vector<int32_t> tokens(std::vector<double> uniforms, bool greedy, const TokenFilter& filter) {
    const std::vector<ConstTensorView> logits = {as_matrix(first, 2), as_matrix(second, 1)};
    std::vector<int32_t> out(2, -1);
    device_under_test().model_operators().sample_mixture({.logits = logits,
                                                          .rows = view_of(rows.data(), 2, 2),
                                                          .weights = as_matrix(weights, 2),
                                                          .uniforms = view_of(uniforms.data(), 1, 2),
                                                          .greedy = greedy,
                                                          .filter = filter,
                                                          .tokens = view_of(out.data(), 1, 2)});
    return out;
  }
};

TEST_CASE("tokens of a mixture: greedy, and drawn where the running sum passes the number") {
  TwoExperts experts;
  using Tokens = std::vector<int32_t>;
  CHECK(experts.tokens({0, 0}, true, {}) == Tokens{0, 3});
  CHECK(experts.tokens({0.49, 0.29}, false, {}) == Tokens{0, 0});
  CHECK(experts.tokens({0.51, 0.31}, false, {}) == Tokens{1, 1});
  CHECK(experts.tokens({0.999999, 0.64}, false, {}) == Tokens{2, 2});
  CHECK(experts.tokens({0.74, 0.66}, false, {}) == Tokens{1, 3});
}

TEST_CASE("top-k keeps ties, top-p does not, and temperature sharpens") {
  TwoExperts experts;
  using Tokens = std::vector<int32_t>;
  CHECK(experts.tokens({0.8, 0.999}, false, {.top_k = 2}) == Tokens{2, 3});  // 0.5 0.25 0.25; 0.3 and 0.35
  CHECK(experts.tokens({0.8, 0.45}, false, {.top_k = 2}) == Tokens{2, 0});
  CHECK(experts.tokens({0.99, 0.99}, false, {.top_p = 0.6}) == Tokens{1, 3});  // 0.5 0.25; 0.3 and 0.35
  CHECK(experts.tokens({0.99, 0.99}, false, {.top_p = 1e-6}) == Tokens{0, 3});
  // Squares: 0.25, 0.0625, 0.0625 of 0.375.
  CHECK(experts.tokens({0.66, 0}, false, {.temperature = 0.5}) == Tokens{0, 0});
  CHECK(experts.tokens({0.67, 0}, false, {.temperature = 0.5}) == Tokens{1, 0});
}

}  // namespace
}  // namespace cbtm
