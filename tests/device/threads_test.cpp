// Every operator of the processor gives the same bits for every number of threads: sizes that no number of threads
// divides, and large enough for the work to be shared.

#include "cbtm/base/threads.h"

#include <doctest/doctest.h>

#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>

#include "cbtm/device/cluster_operators.h"
#include "cbtm/device/model_operators.h"
#include "cbtm/device/optimizer_operators.h"
#include "cbtm/device/quantise.h"
#include "tests/device/operands.h"

namespace cbtm {
namespace {

constexpr int kThreadCounts[] = {2, 3, 5, 8};

Device& device() { return device_under_test(); }

/// Results of any element types, as bits.
class Bits {
 public:
  template <typename Element>
  void add(const std::vector<Element>& values) {
    const auto* bytes = reinterpret_cast<const char*>(values.data());
    bytes_.append(bytes, values.size() * sizeof(Element));
  }
  bool operator==(const Bits&) const = default;

 private:
  std::string bytes_;
};

template <typename... Vectors>
Bits bits_of(const Vectors&... vectors) {
  Bits bits;
  (bits.add(vectors), ...);
  return bits;
}

/// Calls run(), which returns Bits, with one thread and then with others.
template <typename Run>
void check_same_bits(const Run& run) {
  const int before = thread_count();
  set_thread_count(1);
  const Bits expected = run();
  for (const int count : kThreadCounts) {
    CAPTURE(count);
    set_thread_count(count);
    CHECK(run() == expected);
  }
  set_thread_count(before);
}

std::vector<int32_t> random_ids(int64_t count, int64_t below, uint64_t seed) {
  PhiloxStream stream(seed, 7);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) id = static_cast<int32_t>(stream.next_below(static_cast<uint64_t>(below)));
  return ids;
}

TensorView as_row(std::vector<int32_t>& values) {
  return view_of(values.data(), 1, static_cast<int64_t>(values.size()));
}

TEST_CASE("chunks depend on sizes alone, and the first failure of several is the one that is said") {
  const int before = thread_count();
  for (const int count : {1, 2, 3, 5, 8}) {
    set_thread_count(count);
    std::vector<std::pair<int64_t, int64_t>> chunks(4);
    parallel_chunks(103, 32, 1e6, [&](int64_t chunk, int64_t begin, int64_t end) {
      chunks[static_cast<size_t>(chunk)] = {begin, end};
    });
    CHECK(chunks == std::vector<std::pair<int64_t, int64_t>>{{0, 32}, {32, 64}, {64, 96}, {96, 103}});
    CHECK_THROWS_WITH(parallel_ranges(64, 1e6,
                                      [](int64_t begin, int64_t end) {
                                        for (int64_t i = begin; i < end; ++i)
                                          if (i >= 5) throw std::runtime_error("item " + std::to_string(i));
                                      }),
                      "item 5");
  }
  set_thread_count(before);
}

TEST_CASE("threads: layer norm and embedding, forward and backward") {
  for (const auto& [rows, width] : {std::pair<int64_t, int64_t>{203, 257}, {1, 70'001}, {2999, 33}, {4099, 16}}) {
    CAPTURE(rows);
    CAPTURE(width);
    auto residual = random_values(rows * width, 1), branch = random_values(rows * width, 2);
    auto gamma = random_values(width, 3), beta = random_values(width, 4), incoming = random_values(rows * width, 5);
    const Dropout dropout{.probability = 0.2f, .seed = 5, .step = 3, .site = 2, .first_row = 11};
    check_same_bits([&] {
      std::vector<float> sum(residual.size()), normalized(sum.size()), mean(static_cast<size_t>(rows)), rstd(mean);
      device().model_operators().residual_layernorm_forward({.residual = as_matrix(residual, rows),
                                                             .branch = as_matrix(branch, rows),
                                                             .dropout = dropout,
                                                             .gamma = as_matrix(gamma, 1),
                                                             .beta = as_matrix(beta, 1),
                                                             .sum = as_matrix(sum, rows),
                                                             .normalized = as_matrix(normalized, rows),
                                                             .mean = as_matrix(mean, 1),
                                                             .rstd = as_matrix(rstd, 1)});
      std::vector<float> sum_gradient(sum.size()), branch_gradient(sum.size());
      std::vector<float> gamma_gradient = random_values(width, 6), beta_gradient = random_values(width, 7);
      device().model_operators().residual_layernorm_backward({.normalized_gradient = as_matrix(incoming, rows),
                                                              .sum_gradient_in = as_matrix(branch, rows),
                                                              .sum = as_matrix(sum, rows),
                                                              .mean = as_matrix(mean, 1),
                                                              .rstd = as_matrix(rstd, 1),
                                                              .gamma = as_matrix(gamma, 1),
                                                              .dropout = dropout,
                                                              .sum_gradient = as_matrix(sum_gradient, rows),
                                                              .branch_gradient = as_matrix(branch_gradient, rows),
                                                              .gamma_gradient = as_matrix(gamma_gradient, 1),
                                                              .beta_gradient = as_matrix(beta_gradient, 1)});
      return bits_of(sum, normalized, mean, rstd, sum_gradient, branch_gradient, gamma_gradient, beta_gradient);
    });
    auto ids = random_ids(rows, 19, 8), positions = random_ids(rows, 23, 9);
    auto tokens = random_values(19 * width, 10), places = random_values(23 * width, 11);
    check_same_bits([&] {
      std::vector<float> out(residual.size()), token_gradient(tokens.size()), place_gradient(places.size());
      device().model_operators().embedding_forward({.ids = as_row(ids),
                                                    .token_table = as_matrix(tokens, 19),
                                                    .positions = as_row(positions),
                                                    .position_table = as_matrix(places, 23),
                                                    .out = as_matrix(out, rows)});
      device().model_operators().embedding_backward({.ids = as_row(ids),
                                                     .positions = as_row(positions),
                                                     .out_gradient = as_matrix(incoming, rows),
                                                     .token_table_gradient = as_matrix(token_gradient, 19),
                                                     .position_table_gradient = as_matrix(place_gradient, 23)});
      return bits_of(out, token_gradient, place_gradient);
    });
  }
}

TEST_CASE("threads: linear layers, forward and backward, few rows and many") {
  struct Shape {
    int64_t rows, in, out;
  };
  for (const auto& [rows, in, out] : {Shape{1, 513, 1031}, Shape{7, 259, 515}, Shape{9, 333, 777}, Shape{131, 61, 97},
                                      Shape{1029, 67, 43}, Shape{263, 300, 129}}) {
    CAPTURE(rows);
    CAPTURE(in);
    CAPTURE(out);
    auto input = random_values(rows * in, 1), weight = random_values(out * in, 2), bias = random_values(out, 3);
    auto gradient = random_values(rows * out, 4);
    for (const Activation activation : {Activation::relu, Activation::gelu, Activation::gelu_tanh})
      check_same_bits([&] {
        std::vector<float> output(gradient.size()), pre(gradient.size());
        device().model_operators().linear_forward({.input = as_matrix(input, rows),
                                                   .weight = as_matrix(weight, out),
                                                   .bias = as_matrix(bias, 1),
                                                   .activation = activation,
                                                   .output = as_matrix(output, rows),
                                                   .saved = as_saved(as_matrix(pre, rows))});
        std::vector<float> input_gradient(input.size()), weight_gradient = random_values(out * in, 5),
                                                         bias_gradient(bias);
        device().model_operators().linear_backward({.input = as_matrix(input, rows),
                                                    .weight = as_matrix(weight, out),
                                                    .output_gradient = as_matrix(gradient, rows),
                                                    .input_gradient = as_matrix(input_gradient, rows),
                                                    .input_activation = activation,
                                                    .input_saved = as_saved(as_matrix(input, rows)),
                                                    .weight_gradient = as_matrix(weight_gradient, out),
                                                    .bias_gradient = as_matrix(bias_gradient, 1)});
        return bits_of(output, pre, input_gradient, weight_gradient, bias_gradient);
      });
  }
}

TEST_CASE("threads: linear layers with narrow and quantised weights") {
  const int64_t in = 301, out = 1031, groups = int4_groups(in);
  auto weight = random_values(out * in, 2), bias = random_values(out, 3);
  std::vector<bf16> halves;
  for (const float value : weight) halves.push_back(to_bf16(value));
  std::vector<int8_t> bytes(weight.size());
  std::vector<float> byte_scales(static_cast<size_t>(out));
  std::vector<uint8_t> codes(static_cast<size_t>(out * groups * kInt4GroupBytes));
  std::vector<f16> code_scales(static_cast<size_t>(out * groups));
  for (int64_t o = 0; o < out; ++o) {
    const auto at = static_cast<size_t>(o);
    REQUIRE(quantise_int8(weight.data() + o * in, in, bytes.data() + o * in, byte_scales[at]));
    REQUIRE(quantise_int4(weight.data() + o * in, in, codes.data() + o * groups * kInt4GroupBytes,
                          code_scales.data() + o * groups));
  }
  struct Weights {
    ConstTensorView values, scales;
  };
  const Weights kinds[] = {
      {view_of(halves.data(), out, in), {}},
      {view_of(bytes.data(), out, in), view_of(byte_scales.data(), 1, out)},
      {view_of(codes.data(), out, groups * kInt4GroupBytes), view_of(code_scales.data(), out, groups)}};
  for (const int64_t rows : {int64_t{1}, int64_t{2}, int64_t{5}, int64_t{8}, int64_t{9}, int64_t{77}}) {
    CAPTURE(rows);
    auto input = random_values(rows * in, 1);
    for (const Weights& weights : kinds)
      check_same_bits([&] {
        std::vector<float> output(static_cast<size_t>(rows * out));
        device().model_operators().linear_forward({.input = as_matrix(input, rows),
                                                   .weight = weights.values,
                                                   .bias = as_matrix(bias, 1),
                                                   .output = as_matrix(output, rows),
                                                   .weight_scales = weights.scales});
        return bits_of(output);
      });
  }
}

TEST_CASE("threads: attention, forward and backward, dropout included") {
  for (const auto& [heads, head_dim] : {std::pair<int64_t, int64_t>{3, 20}, {5, 64}}) {
    CAPTURE(heads);
    const std::vector<int32_t> offsets = {0, 41, 42, 42, 175, 206};
    const int64_t rows = offsets.back(), width = heads * head_dim;
    auto query = random_values(rows * width, 1), key = random_values(rows * width, 2);
    auto value = random_values(rows * width, 3), incoming = random_values(rows * width, 4);
    const AttentionShape shape{.query_offsets = offsets,
                               .key_offsets = offsets,
                               .num_heads = heads,
                               .head_dim = head_dim,
                               .scale = 0.2f,
                               .dropout = {.probability = 0.1f, .seed = 3, .step = 2, .site = 1},
                               .dropout_columns = 144};
    check_same_bits([&] {
      std::vector<float> output(query.size()), sums(static_cast<size_t>(rows * heads));
      std::vector<float> query_gradient(query.size()), key_gradient(query.size()), value_gradient(query.size());
      device().model_operators().attention_forward({.shape = shape,
                                                    .query = as_matrix(query, rows),
                                                    .key = as_matrix(key, rows),
                                                    .value = as_matrix(value, rows),
                                                    .output = as_matrix(output, rows),
                                                    .log_sum_exp = as_matrix(sums, rows)});
      device().model_operators().attention_backward({.shape = shape,
                                                     .query = as_matrix(query, rows),
                                                     .key = as_matrix(key, rows),
                                                     .value = as_matrix(value, rows),
                                                     .output = as_matrix(output, rows),
                                                     .log_sum_exp = as_matrix(sums, rows),
                                                     .output_gradient = as_matrix(incoming, rows),
                                                     .query_gradient = as_matrix(query_gradient, rows),
                                                     .key_gradient = as_matrix(key_gradient, rows),
                                                     .value_gradient = as_matrix(value_gradient, rows)});
      return bits_of(output, sums, query_gradient, key_gradient, value_gradient);
    });
  }
}

TEST_CASE("threads: the loss, the optimizer and the mixture of experts") {
  const int64_t rows = 301, width = 37, vocab = 517;
  auto hidden = random_values(rows * width, 1), table = random_values(vocab * width, 2);
  auto targets = random_ids(rows, vocab, 3);
  targets[7] = -100;
  check_same_bits([&] {
    std::vector<float> losses(static_cast<size_t>(rows)), hidden_gradient(hidden.size()), table_gradient(table.size());
    std::vector<double> loss_sum(1);
    device().model_operators().output_loss({.hidden = as_matrix(hidden, rows),
                                            .table = as_matrix(table, vocab),
                                            .targets = as_row(targets),
                                            .losses = as_matrix(losses, 1),
                                            .loss_sum = view_of(loss_sum.data(), 1, 1),
                                            .gradient_scale = 0.01f,
                                            .hidden_gradient = as_matrix(hidden_gradient, rows),
                                            .table_gradient = as_matrix(table_gradient, vocab)});
    return bits_of(losses, loss_sum, hidden_gradient, table_gradient);
  });
  const int64_t count = 3 * 65'536 + 12'347;
  check_same_bits([&] {
    auto weights = random_values(count, 4), gradients = random_values(count, 5), first = random_values(count, 6, 0.1f);
    auto second = random_values(count, 7);
    for (float& value : second) value *= value;
    std::vector<double> square_sum(1);
    device().optimizer_operators().gradient_square_sum(as_matrix(gradients, 1), view_of(square_sum.data(), 1, 1));
    device().optimizer_operators().adamw({.weights = as_matrix(weights, 1),
                                          .gradients = as_matrix(gradients, 1),
                                          .first_moments = as_matrix(first, 1),
                                          .second_moments = as_matrix(second, 1),
                                          .working_weights = {},
                                          .gradient_square_sum = view_of(square_sum.data(), 1, 1),
                                          .decayed_count = count / 2 + 5,
                                          .step = 3,
                                          .learning_rate = 0.01f,
                                          .weight_decay = 0.1f,
                                          .clip_norm = 1});
    return bits_of(weights, first, second, square_sum);
  });
  auto first = random_values(rows * vocab, 8, 4), second = random_values(rows * vocab, 9, 4);
  auto weights = random_values(rows * 2, 10);
  for (size_t i = 0; i < weights.size(); i += 2) {
    weights[i] = std::abs(weights[i]);
    weights[i + 1] = 1 - weights[i];
  }
  check_same_bits([&] {
    const ConstTensorView logits[] = {as_matrix(first, rows), as_matrix(second, rows)};
    std::vector<float> mixed(first.size());
    device().model_operators().mixture_log_probabilities({.logits = logits,
                                                          .weights = as_matrix(weights, rows),
                                                          .log_probabilities = as_matrix(mixed, rows),
                                                          .rows = {}});
    return bits_of(mixed);
  });
}

TEST_CASE("threads: clustering") {
  const int64_t n = 1501, dimensions = 29, clusters = 7;
  auto points = random_values(n * dimensions, 1), centres = random_values(clusters * dimensions, 2);
  check_same_bits([&] {
    std::vector<double> product(static_cast<size_t>(dimensions * dimensions));
    device().cluster_operators().gram(as_matrix(points, n), view_of(product.data(), dimensions, dimensions));
    std::vector<double> upper = product;
    std::vector<float> divided = points;
    device().cluster_operators().solve_upper(view_of(upper.data(), dimensions, dimensions), as_matrix(divided, n));
    std::vector<float> costs(static_cast<size_t>(n * clusters)), nearest(static_cast<size_t>(n)), runner_up(nearest);
    std::vector<int32_t> labels(static_cast<size_t>(n));
    device().cluster_operators().squared_distances(as_matrix(points, n), as_matrix(centres, clusters),
                                                   as_matrix(costs, n));
    device().cluster_operators().nearest_centres({.rows = as_matrix(points, n),
                                                  .centroids = as_matrix(centres, clusters),
                                                  .labels = as_row(labels),
                                                  .nearest = as_matrix(nearest, 1),
                                                  .second = as_matrix(runner_up, 1)});
    std::vector<double> sums(static_cast<size_t>(clusters * dimensions)), prices(static_cast<size_t>(clusters)),
        dual(1);
    std::vector<int64_t> counts(static_cast<size_t>(clusters)), ranks(static_cast<size_t>(clusters), n / clusters);
    device().cluster_operators().cluster_sums({as_matrix(points, n), as_row(labels),
                                               view_of(sums.data(), clusters, dimensions),
                                               view_of(counts.data(), 1, clusters)});
    device().cluster_operators().price_sweep({as_matrix(costs, n), ranks, view_of(prices.data(), 1, clusters)});
    std::vector<float> margins(static_cast<size_t>(n));
    device().cluster_operators().assign_at_prices({as_matrix(costs, n), view_of(prices.data(), 1, clusters),
                                                   as_row(labels), as_matrix(margins, 1),
                                                   view_of(counts.data(), 1, clusters), view_of(dual.data(), 1, 1)});
    return bits_of(product, divided, costs, nearest, runner_up, sums, prices, labels, margins, counts, dual);
  });
  // Rows of 0 to 12 entries.
  std::vector<int64_t> indptr = {0};
  for (int64_t row = 0; row < n; ++row) indptr.push_back(indptr.back() + row % 13);
  std::vector<int32_t> indices;
  for (int64_t row = 0; row < n; ++row)
    for (int64_t entry = 0; entry < row % 13; ++entry) indices.push_back(static_cast<int32_t>(entry * 3));
  const auto counts = random_values(indptr.back(), 3);
  auto dense = random_values(40 * dimensions, 4);
  std::vector<double> idf(40);
  std::iota(idf.begin(), idf.end(), 1.0);
  check_same_bits([&] {
    std::vector<float> values = counts, product(static_cast<size_t>(n * dimensions));
    const SparseMatrix matrix{n, 40, view_of(indptr.data(), 1, n + 1), as_row(indices), as_matrix(values, 1)};
    device().cluster_operators().tfidf_rows({matrix, view_of(idf.data(), 1, 40)});
    device().cluster_operators().sparse_times_dense(matrix, as_matrix(dense, 40), as_matrix(product, n));
    return bits_of(values, product);
  });
}

}  // namespace
}  // namespace cbtm
