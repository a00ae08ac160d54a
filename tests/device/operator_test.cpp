// Operators against plain loops and finite differences, over odd sizes, dropout and every instruction set (ctest runs
// this program once a level).

#include <cmath>
#include <cstring>
#include <numeric>

#include "cbtm/base/threads.h"
#include "cbtm/device/model_operators.h"
#include "cbtm/device/optimizer_operators.h"
#include "tests/device/operands.h"

namespace cbtm {
namespace {

std::vector<float> reference_multipliers(const Dropout& dropout, int64_t first, int64_t count) {
  std::vector<float> out;
  for (int64_t e = first; e < first + count; ++e) {
    const auto group = static_cast<uint64_t>(e / 4);
    const PhiloxCounter words = philox(
        {{static_cast<uint32_t>(group), static_cast<uint32_t>(group >> 32), dropout.site, dropout.step}}, dropout.seed);
    out.push_back(uniform_from_bits(words.word[e % 4]) < dropout.probability ? 0.0f : 1 / (1 - dropout.probability));
  }
  return out;
}

TEST_CASE("residual dropout draws the documented elements, wherever a batch is cut") {
  Device& device = device_under_test();
  for (const int64_t width : {1, 3, 31, 64, 129}) {
    for (const int64_t first_row : {int64_t{0}, int64_t{7}, (int64_t{1} << 34) / width}) {
      CAPTURE(width);
      const Dropout dropout{
          .probability = 0.3f, .seed = 0x123456789abcdefull, .step = 5, .site = 9, .first_row = first_row};
      const int64_t rows = 5;
      std::vector<float> residual(static_cast<size_t>(rows * width), 0.0f), branch(residual.size(), 1.0f),
          sum(residual.size());
      device.model_operators().residual_layernorm_forward({.residual = as_matrix(residual, rows),
                                                           .branch = as_matrix(branch, rows),
                                                           .dropout = dropout,
                                                           .gamma = {},
                                                           .beta = {},
                                                           .sum = as_matrix(sum, rows),
                                                           .normalized = {},
                                                           .mean = {},
                                                           .rstd = {}});
      CHECK(sum == reference_multipliers(dropout, first_row * width, rows * width));
      std::vector<float> gradient(residual.size(), 1.0f), branch_gradient(residual.size());
      device.model_operators().residual_layernorm_backward({.normalized_gradient = {},
                                                            .sum_gradient_in = as_matrix(gradient, rows),
                                                            .sum = {},
                                                            .mean = {},
                                                            .rstd = {},
                                                            .gamma = {},
                                                            .dropout = dropout,
                                                            .sum_gradient = as_matrix(gradient, rows),
                                                            .branch_gradient = as_matrix(branch_gradient, rows),
                                                            .gamma_gradient = {},
                                                            .beta_gradient = {}});
      CHECK(branch_gradient == sum);
    }
  }
}

TEST_CASE("layernorm with dropout: backward equals finite differences") {
  Device& device = device_under_test();
  const int64_t rows = 4, width = 37;
  auto residual = random_values(rows * width, 1), branch = random_values(rows * width, 2),
       gamma = random_values(width, 3), beta = random_values(width, 4);
  auto weight_normal = random_values(rows * width, 5), weight_sum = random_values(rows * width, 6);
  std::vector<float> sum(residual.size()), normalized(residual.size()), mean(static_cast<size_t>(rows)), rstd(mean);
  const Dropout dropout{.probability = 0.25f, .seed = 11, .step = 1, .site = 2};
  const auto forward = [&] {
    device.model_operators().residual_layernorm_forward(
        {as_matrix(residual, rows), as_matrix(branch, rows), dropout, as_matrix(gamma, 1), as_matrix(beta, 1), 1e-5f,
         as_matrix(sum, rows), as_matrix(normalized, rows), as_matrix(mean, 1), as_matrix(rstd, 1)});
    return weighted_sum(normalized, weight_normal) + weighted_sum(sum, weight_sum);
  };
  forward();
  std::vector<float> dsum(residual.size()), dbranch(residual.size()), dgamma(gamma.size()), dbeta(beta.size());
  device.model_operators().residual_layernorm_backward(
      {as_matrix(weight_normal, rows), as_matrix(weight_sum, rows), as_matrix(sum, rows), as_matrix(mean, 1),
       as_matrix(rstd, 1), as_matrix(gamma, 1), dropout, as_matrix(dsum, rows), as_matrix(dbranch, rows),
       as_matrix(dgamma, 1), as_matrix(dbeta, 1)});
  check_gradient(residual, dsum, forward);
  check_gradient(branch, dbranch, forward);
  check_gradient(gamma, dgamma, forward);
  check_gradient(beta, dbeta, forward);
}

TEST_CASE("attention with dropout and packed sequences: backward equals finite differences") {
  Device& device = device_under_test();
  for (const int64_t dim : {8, 20}) {
    const int64_t heads = 2;
    const std::vector<int32_t> offsets = {0, 5, 5, 6, 46};  // also an empty and a single-token sequence
    const int64_t rows = offsets.back();
    const AttentionShape shape{.query_offsets = offsets,
                               .key_offsets = offsets,
                               .num_heads = heads,
                               .head_dim = dim,
                               .scale = 0.4f,
                               .dropout = {.probability = 0.2f, .seed = 3, .step = 4, .site = 5, .first_row = 17},
                               .dropout_columns = 64};
    auto q = random_values(rows * heads * dim, 1), k = random_values(rows * heads * dim, 2),
         v = random_values(rows * heads * dim, 3), weight = random_values(rows * heads * dim, 4);
    std::vector<float> o(q.size()), lse(static_cast<size_t>(rows * heads)), dq(q.size()), dk(q.size()), dv(q.size());
    const auto forward = [&] {
      device.model_operators().attention_forward({shape, as_matrix(q, rows), as_matrix(k, rows), as_matrix(v, rows),
                                                  as_matrix(o, rows), as_matrix(lse, rows)});
      return weighted_sum(o, weight);
    };
    forward();
    device.model_operators().attention_backward({shape, as_matrix(q, rows), as_matrix(k, rows), as_matrix(v, rows),
                                                 as_matrix(o, rows), as_matrix(lse, rows), as_matrix(weight, rows),
                                                 as_matrix(dq, rows), as_matrix(dk, rows), as_matrix(dv, rows)});
    check_gradient(q, dq, forward);
    check_gradient(k, dk, forward);
    check_gradient(v, dv, forward);
    // One query worked out by hand, dropout included.
    const int64_t row = 6 + 9, head = 1, seen = 10;
    const auto multipliers = reference_multipliers(shape.dropout, ((17 + row) * heads + head) * 64, seen);
    std::vector<double> p(static_cast<size_t>(seen));
    double total = 0;
    for (int64_t j = 0; j < seen; ++j) {
      double score = 0;
      for (int64_t d = 0; d < dim; ++d)
        score += 0.4 * static_cast<double>(q[static_cast<size_t>((row * heads + head) * dim + d)]) *
                 static_cast<double>(k[static_cast<size_t>(((6 + j) * heads + head) * dim + d)]);
      total += p[static_cast<size_t>(j)] = std::exp(score);
    }
    double expected = 0;
    for (int64_t j = 0; j < seen; ++j)
      expected += p[static_cast<size_t>(j)] / total * static_cast<double>(multipliers[static_cast<size_t>(j)]) *
                  static_cast<double>(v[static_cast<size_t>(((6 + j) * heads + head) * dim)]);
    CHECK(static_cast<double>(o[static_cast<size_t>((row * heads + head) * dim)]) ==
          doctest::Approx(expected).epsilon(1e-5));
  }
}

TEST_CASE("linear layers of any number of rows, weights of any kind, equal plain loops") {
  Device& device = device_under_test();
  for (const int64_t rows : {1, 2, 3, 5, 8, 9, 70}) {
    for (const auto& [in, out] : {std::pair<int64_t, int64_t>{1, 1}, {17, 5}, {64, 33}, {100, 257}}) {
      CAPTURE(rows);
      CAPTURE(in);
      auto x = random_values(rows * in, 1), w = random_values(in * out, 2), b = random_values(out, 3);
      std::vector<bf16> w16(w.size());
      for (size_t i = 0; i < w.size(); ++i) {
        w16[i] = to_bf16(w[i]);
        w[i] = to_float(w16[i]);
      }
      std::vector<f16> half(w.size());
      for (size_t i = 0; i < w.size(); ++i) half[i] = to_f16(w[i]);
      std::vector<float> want(static_cast<size_t>(rows * out));
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t o = 0; o < out; ++o) {
          double sum = static_cast<double>(b[static_cast<size_t>(o)]);
          for (int64_t i = 0; i < in; ++i)
            sum += static_cast<double>(x[static_cast<size_t>(r * in + i)]) *
                   static_cast<double>(w[static_cast<size_t>(o * in + i)]);
          want[static_cast<size_t>(r * out + o)] = static_cast<float>(std::max(0.0, sum));
        }
      for (const ConstTensorView weight :
           {ConstTensorView(view_of(w.data(), out, in)), ConstTensorView(view_of(w16.data(), out, in)),
            ConstTensorView(view_of(half.data(), out, in))}) {
        std::vector<float> got(want.size(), NAN);
        device.model_operators().linear_forward(
            {as_matrix(x, rows), weight, as_matrix(b, 1), Activation::relu, as_matrix(got, rows), {}});
        CHECK(relative_error(got, want) <= 3e-6);
      }
    }
  }
}

TEST_CASE("gelu layers: backward equals finite differences") {
  Device& device = device_under_test();
  const int64_t rows = 6, in = 9, out = 13, last = 4;
  auto x = random_values(rows * in, 1), w = random_values(in * out, 2), b = random_values(out, 3),
       w2 = random_values(out * last, 4), weight = random_values(rows * last, 5);
  std::vector<float> pre(static_cast<size_t>(rows * out)), h(pre.size()), y(static_cast<size_t>(rows * last)),
      dh(pre.size()), dx(x.size()), dw(w.size()), db(b.size());
  const auto forward = [&] {
    device.model_operators().linear_forward({as_matrix(x, rows), as_matrix(w, out), as_matrix(b, 1), Activation::gelu,
                                             as_matrix(h, rows), as_saved(as_matrix(pre, rows))});
    device.model_operators().linear_forward(
        {as_matrix(h, rows), as_matrix(w2, last), {}, Activation::none, as_matrix(y, rows), {}});
    return weighted_sum(y, weight);
  };
  forward();
  device.model_operators().linear_backward({.input = as_matrix(h, rows),
                                            .weight = as_matrix(w2, last),
                                            .output_gradient = as_matrix(weight, rows),
                                            .input_gradient = as_matrix(dh, rows),
                                            .input_activation = Activation::gelu,
                                            .input_saved = as_saved(as_matrix(pre, rows)),
                                            .weight_gradient = {},
                                            .bias_gradient = {}});
  device.model_operators().linear_backward({.input = as_matrix(x, rows),
                                            .weight = as_matrix(w, out),
                                            .output_gradient = as_matrix(dh, rows),
                                            .input_gradient = as_matrix(dx, rows),
                                            .weight_gradient = as_matrix(dw, out),
                                            .bias_gradient = as_matrix(db, 1)});
  check_gradient(x, dx, forward);
  check_gradient(w, dw, forward);
  check_gradient(b, db, forward);
}

TEST_CASE("output loss: backward equals finite differences, in more rows than a block") {
  Device& device = device_under_test();
  const int64_t rows = 300, width = 12, vocab = 41;
  auto hidden = random_values(rows * width, 1), table = random_values(vocab * width, 2);
  std::vector<int32_t> targets;
  for (int64_t r = 0; r < rows; ++r) targets.push_back(r % 7 == 0 ? -100 : static_cast<int32_t>((r * 13) % vocab));
  std::vector<float> losses(static_cast<size_t>(rows)), dhidden(hidden.size()), dtable(table.size());
  const auto run = [&](bool gradients) {
    double sum = 0;
    device.model_operators().output_loss({.hidden = as_matrix(hidden, rows),
                                          .table = as_matrix(table, vocab),
                                          .targets = view_of(targets.data(), 1, rows),
                                          .losses = as_matrix(losses, 1),
                                          .loss_sum = view_of(&sum, 1, 1),
                                          .gradient_scale = 0.5f,
                                          .hidden_gradient = gradients ? as_matrix(dhidden, rows) : TensorView(),
                                          .table_gradient = gradients ? as_matrix(dtable, vocab) : TensorView()});
    return 0.5 * sum;
  };
  run(true);
  check_gradient(hidden, dhidden, [&] { return run(false); });
  check_gradient(
      table, dtable, [&] { return run(false); }, 1e-2f, 5e-3);
}

TEST_CASE("embedding forward and backward") {
  Device& device = device_under_test();
  std::vector<float> tokens = {1, 2, 3, 4, 5, 6}, positions = {10, 20, 30, 40}, out(6), gradient = {1, 2, 3, 4, 5, 6},
                     dtokens(6), dpositions(4);
  std::vector<int32_t> ids = {2, 0, 2}, places = {1, 0, 1};
  device.model_operators().embedding_forward({.ids = view_of(ids.data(), 1, 3),
                                              .token_table = as_matrix(tokens, 3),
                                              .positions = view_of(places.data(), 1, 3),
                                              .position_table = as_matrix(positions, 2),
                                              .out = as_matrix(out, 3)});
  CHECK(out == std::vector<float>{35, 46, 11, 22, 35, 46});
  device.model_operators().embedding_backward({view_of(ids.data(), 1, 3), view_of(places.data(), 1, 3),
                                               as_matrix(gradient, 3), as_matrix(dtokens, 3),
                                               as_matrix(dpositions, 2)});
  CHECK(dtokens == std::vector<float>{3, 4, 0, 0, 6, 8});
  CHECK(dpositions == std::vector<float>{3, 4, 6, 8});
}

TEST_CASE("attention over a paged cache equals attention over whole sequences, in any pieces") {
  Device& device = device_under_test();
  const int64_t heads = 2, dim = 12, width = heads * dim, page = 4, pages = 20;
  const std::vector<int32_t> lengths = {23, 9};
  std::vector<int32_t> block_table = {7, 3, 11, 0, 19, 5, 13, 1, 2, 4, 6, 8};
  std::vector<float> cache_keys(static_cast<size_t>(pages * page * width)), cache_values(cache_keys.size());
  const int64_t rows = 32;
  auto q = random_values(rows * width, 1), k = random_values(rows * width, 2), v = random_values(rows * width, 3);
  std::vector<float> want(q.size()), got(q.size());
  const std::vector<int32_t> offsets = {0, 23, 32};
  AttentionShape shape{.query_offsets = offsets,
                       .key_offsets = offsets,
                       .num_heads = heads,
                       .head_dim = dim,
                       .scale = 0.3f,
                       .dropout = {}};
  device.model_operators().attention_forward(
      {shape, as_matrix(q, rows), as_matrix(k, rows), as_matrix(v, rows), as_matrix(want, rows), {}});
  std::vector<int32_t> cached = {0, 0};
  for (const auto& [first, second] : {std::pair{12, 1}, {1, 2}, {1, 1}, {9, 5}}) {
    const std::vector<int32_t> counts = {first, second};
    std::vector<int32_t> piece_offsets = {0};
    std::vector<float> pq, pk, pv;
    for (size_t s = 0; s < 2; ++s) {
      const int64_t begin = offsets[s] + cached[s];
      for (auto [from, to] : {std::pair{&q, &pq}, {&k, &pk}, {&v, &pv}})
        to->insert(to->end(), from->begin() + begin * width, from->begin() + (begin + counts[s]) * width);
      cached[s] += counts[s];
      piece_offsets.push_back(piece_offsets.back() + counts[s]);
    }
    std::vector<float> out(pq.size());
    const int64_t n = piece_offsets.back();
    shape.query_offsets = piece_offsets;
    device.model_operators().attention_cached(
        {shape,
         cached,
         {as_matrix(cache_keys, pages * page), as_matrix(cache_values, pages * page), page,
          view_of(block_table.data(), 2, 6)},
         as_matrix(pq, n),
         as_matrix(pk, n),
         as_matrix(pv, n),
         as_matrix(out, n)});
    for (size_t s = 0; s < 2; ++s)
      std::copy_n(out.begin() + piece_offsets[s] * width, counts[s] * width,
                  got.begin() + (offsets[s] + cached[s] - counts[s]) * width);
  }
  CHECK(cached == lengths);
  CHECK(relative_error(got, want) <= 2e-6);
}

TEST_CASE("mixture of distributions equals the plain formula; weight 0 is not read") {
  Device& device = device_under_test();
  const int64_t rows = 3, vocab = 203;
  auto a = random_values(rows * vocab, 1, 8), b = random_values(rows * vocab, 2, 8);
  std::vector<float> unread(a.size(), NAN), out(a.size()), want(a.size()),
      weights = {0.25f, 0.75f, 0, 1, 0, 0, 0.5f, 0.5f, 0};
  const ConstTensorView logits[] = {as_matrix(a, rows), as_matrix(b, rows), as_matrix(unread, rows)};
  device.model_operators().mixture_log_probabilities({logits, as_matrix(weights, rows), as_matrix(out, rows)});
  for (int64_t r = 0; r < rows; ++r) {
    double totals[2] = {0, 0};
    for (int64_t i = 0; i < vocab; ++i) {
      totals[0] += std::exp(static_cast<double>(a[static_cast<size_t>(r * vocab + i)]));
      totals[1] += std::exp(static_cast<double>(b[static_cast<size_t>(r * vocab + i)]));
    }
    double sum = 0;
    for (int64_t i = 0; i < vocab; ++i) {
      const auto at = static_cast<size_t>(r * vocab + i);
      const double p =
          static_cast<double>(weights[static_cast<size_t>(r * 3)]) * std::exp(static_cast<double>(a[at])) / totals[0] +
          static_cast<double>(weights[static_cast<size_t>(r * 3 + 1)]) * std::exp(static_cast<double>(b[at])) /
              totals[1];
      want[at] = static_cast<float>(std::log(p));
      sum += std::exp(static_cast<double>(out[at]));
    }
    CHECK(sum == doctest::Approx(1).epsilon(1e-5));
  }
  CHECK(relative_error(out, want) <= 2e-6);
}

TEST_CASE("adamw divides the loss scale out again and rounds the working copy") {
  Device& device = device_under_test();
  constexpr float kLossScale = 1024;  // a power of two: both runs must give the same bits
  const std::vector<float> start = random_values(37, 1), gradients = random_values(37, 2);
  std::vector<float> weights[2];
  std::vector<bf16> working(start.size());
  for (const bool scaled : {false, true}) {
    std::vector<float> w = start, g = gradients, m = random_values(37, 3, 0.1f), v(m.size(), 0.01f);
    if (scaled)
      for (float& value : g) value *= kLossScale;
    double square_sum = 0;
    device.optimizer_operators().gradient_square_sum(as_matrix(g, 1), view_of(&square_sum, 1, 1));
    device.optimizer_operators().adamw({.weights = as_matrix(w, 1),
                                        .gradients = as_matrix(g, 1),
                                        .first_moments = as_matrix(m, 1),
                                        .second_moments = as_matrix(v, 1),
                                        .working_weights = scaled ? view_of(working.data(), 1, 37) : TensorView(),
                                        .gradient_square_sum = view_of(&square_sum, 1, 1),
                                        .loss_scale = scaled ? kLossScale : 1.0f,
                                        .decayed_count = 20,
                                        .learning_rate = 0.1f,
                                        .weight_decay = 0.1f,
                                        .clip_norm = 1});
    weights[scaled] = w;
  }
  CHECK(weights[0] == weights[1]);
  CHECK(weights[0] != start);
  for (size_t i = 0; i < working.size(); ++i) CHECK(working[i].bits == to_bf16(weights[1][i]).bits);
}

}  // namespace
}  // namespace cbtm
