// Rows given to the operators at once or in pieces: what belongs to a row has the same bits, and what is summed over
// rows differs by the rounding of sums at most. (Up to 8 rows at once are
// multiplied in another order, so no piece is that short where products are compared.) The bound is derived: a sum of n
// products in any order is within n u / (1 - n u) of the exact one, times the sum of the products' sizes (u = 2^-24;
// Higham, "Accuracy and Stability of Numerical Algorithms", section 4.2), so two orders are within twice that of each
// other.

#include "cbtm/device/model_operators.h"
#include "tests/device/operands.h"

namespace cbtm {
namespace {

constexpr int64_t kRows = 301;

Device& device() { return device_under_test(); }

double sum_bound(int64_t terms, double sizes) {
  const double error = static_cast<double>(terms) * 0x1p-24;
  return 2 * error / (1 - error) * sizes;
}

/// Largest difference of each pair of sums as a part of its bound: 1 is as far as rounding can come.
double worst(const std::vector<float>& whole, const std::vector<float>& pieces, const std::vector<double>& sizes,
             int64_t terms) {
  double largest = 0;
  for (size_t i = 0; i < whole.size(); ++i)
    largest = std::max(
        largest, std::abs(static_cast<double>(whole[i]) - static_cast<double>(pieces[i])) / sum_bound(terms, sizes[i]));
  return largest;
}

template <typename Call>
void in_pieces(int64_t piece, const Call& call) {
  for (int64_t first = 0; first < kRows; first += piece) call(first, std::min(piece, kRows - first));
}

TEST_CASE("micro-batches: gradients of a linear layer") {
  const int64_t in = 45, out = 67;
  auto input = random_values(kRows * in, 1), weight = random_values(out * in, 2),
       gradient = random_values(kRows * out, 3);
  struct Gradients {
    std::vector<float> output, input, weight, bias;
  };
  const auto run = [&](int64_t piece) {
    Gradients g{std::vector<float>(gradient.size()), std::vector<float>(input.size()),
                std::vector<float>(weight.size()), std::vector<float>(static_cast<size_t>(out))};
    in_pieces(piece, [&](int64_t first, int64_t count) {
      device().model_operators().linear_forward({.input = as_matrix(input, kRows).row_range(first, count),
                                                 .weight = as_matrix(weight, out),
                                                 .bias = {},
                                                 .output = as_matrix(g.output, kRows).row_range(first, count)});
      device().model_operators().linear_backward({.input = as_matrix(input, kRows).row_range(first, count),
                                                  .weight = as_matrix(weight, out),
                                                  .output_gradient = as_matrix(gradient, kRows).row_range(first, count),
                                                  .input_gradient = as_matrix(g.input, kRows).row_range(first, count),
                                                  .weight_gradient = as_matrix(g.weight, out),
                                                  .bias_gradient = as_matrix(g.bias, 1)});
    });
    return g;
  };
  std::vector<double> weight_sizes(weight.size()), bias_sizes(static_cast<size_t>(out));
  for (int64_t row = 0; row < kRows; ++row)
    for (int64_t o = 0; o < out; ++o) {
      const double size = std::abs(static_cast<double>(gradient[static_cast<size_t>(row * out + o)]));
      bias_sizes[static_cast<size_t>(o)] += size;
      for (int64_t i = 0; i < in; ++i)
        weight_sizes[static_cast<size_t>(o * in + i)] +=
            size * std::abs(static_cast<double>(input[static_cast<size_t>(row * in + i)]));
    }
  const Gradients whole = run(kRows);
  for (const int64_t piece : {16, 64, 110}) {
    CAPTURE(piece);
    const Gradients g = run(piece);
    CHECK(g.output == whole.output);
    CHECK(g.input == whole.input);
    CHECK(worst(whole.weight, g.weight, weight_sizes, kRows + 1) <= 1);
    CHECK(worst(whole.bias, g.bias, bias_sizes, kRows + 1) <= 1);
  }
}

TEST_CASE("micro-batches: gradients of a layer norm") {
  const int64_t width = 53;
  auto residual = random_values(kRows * width, 1), incoming = random_values(kRows * width, 2);
  auto gamma = random_values(width, 3);
  std::vector<float> sum(residual.size()), normalized(sum.size()), mean(kRows), rstd(kRows);
  device().model_operators().residual_layernorm_forward({.residual = as_matrix(residual, kRows),
                                                         .branch = {},
                                                         .dropout = {},
                                                         .gamma = {},
                                                         .beta = {},
                                                         .sum = as_matrix(sum, kRows),
                                                         .normalized = as_matrix(normalized, kRows),
                                                         .mean = as_matrix(mean, 1),
                                                         .rstd = as_matrix(rstd, 1)});
  struct Gradients {
    std::vector<float> sum, gamma, beta;
  };
  const auto run = [&](int64_t piece) {
    Gradients g{std::vector<float>(sum.size()), std::vector<float>(static_cast<size_t>(width)),
                std::vector<float>(static_cast<size_t>(width))};
    in_pieces(piece, [&](int64_t first, int64_t count) {
      device().model_operators().residual_layernorm_backward(
          {.normalized_gradient = as_matrix(incoming, kRows).row_range(first, count),
           .sum_gradient_in = {},
           .sum = as_matrix(sum, kRows).row_range(first, count),
           .mean = as_matrix(mean, 1).column_range(first, count),
           .rstd = as_matrix(rstd, 1).column_range(first, count),
           .gamma = as_matrix(gamma, 1),
           .dropout = {},
           .sum_gradient = as_matrix(g.sum, kRows).row_range(first, count),
           .branch_gradient = {},
           .gamma_gradient = as_matrix(g.gamma, 1),
           .beta_gradient = as_matrix(g.beta, 1)});
    });
    return g;
  };
  std::vector<double> gamma_sizes(static_cast<size_t>(width)), beta_sizes(gamma_sizes);
  for (size_t i = 0; i < incoming.size(); ++i) {
    const double size = std::abs(static_cast<double>(incoming[i]));
    beta_sizes[i % static_cast<size_t>(width)] += size;
    gamma_sizes[i % static_cast<size_t>(width)] += size * std::abs(static_cast<double>(normalized[i]));
  }
  const Gradients whole = run(kRows);
  for (const int64_t piece : {1, 7, 64, 150}) {
    CAPTURE(piece);
    const Gradients g = run(piece);
    CHECK(g.sum == whole.sum);
    CHECK(worst(whole.gamma, g.gamma, gamma_sizes, kRows + 1) <= 1);
    CHECK(worst(whole.beta, g.beta, beta_sizes, kRows + 1) <= 1);
  }
}

TEST_CASE("micro-batches: gradients of the loss and of the embedding") {
  const int64_t width = 29, vocab = 83;
  auto hidden = random_values(kRows * width, 1), table = random_values(vocab * width, 2);
  PhiloxStream stream(5, 5);
  std::vector<int32_t> targets(kRows);
  for (int32_t& target : targets) target = static_cast<int32_t>(stream.next_below(vocab));
  const TensorView target_view = view_of(targets.data(), 1, kRows);
  struct Gradients {
    std::vector<float> losses, hidden, table, tokens;
    std::vector<double> loss_sum;
  };
  const auto run = [&](int64_t piece) {
    Gradients g{std::vector<float>(kRows), std::vector<float>(hidden.size()), std::vector<float>(table.size()),
                std::vector<float>(table.size()), std::vector<double>(1)};
    in_pieces(piece, [&](int64_t first, int64_t count) {
      device().model_operators().output_loss({.hidden = as_matrix(hidden, kRows).row_range(first, count),
                                              .table = as_matrix(table, vocab),
                                              .targets = target_view.column_range(first, count),
                                              .losses = as_matrix(g.losses, 1).column_range(first, count),
                                              .loss_sum = view_of(g.loss_sum.data(), 1, 1),
                                              .gradient_scale = 1,
                                              .hidden_gradient = as_matrix(g.hidden, kRows).row_range(first, count),
                                              .table_gradient = as_matrix(g.table, vocab)});
      device().model_operators().embedding_backward({.ids = target_view.column_range(first, count),
                                                     .positions = {},
                                                     .out_gradient = as_matrix(hidden, kRows).row_range(first, count),
                                                     .token_table_gradient = as_matrix(g.tokens, vocab),
                                                     .position_table_gradient = {}});
    });
    return g;
  };
  // d loss / d logit is a probability, less 1 at the target: below 1, and what rounding adds to it.
  std::vector<double> sizes(table.size());
  for (int64_t row = 0; row < kRows; ++row)
    for (int64_t v = 0; v < vocab; ++v)
      for (int64_t i = 0; i < width; ++i)
        sizes[static_cast<size_t>(v * width + i)] +=
            std::abs(static_cast<double>(hidden[static_cast<size_t>(row * width + i)]));
  const Gradients whole = run(kRows);
  for (const int64_t piece : {16, 64, 110}) {
    CAPTURE(piece);
    const Gradients g = run(piece);
    CHECK(g.losses == whole.losses);
    CHECK(g.hidden == whole.hidden);
    CHECK(g.tokens == whole.tokens);  // row after row, in either case
    CHECK(worst(whole.table, g.table, sizes, kRows + 1) <= 1);
    CHECK(std::abs(g.loss_sum[0] - whole.loss_sum[0]) <= 2 * kRows * 0x1p-53 * whole.loss_sum[0]);
  }
}

}  // namespace
}  // namespace cbtm
