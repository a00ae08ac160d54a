#include <fmt/format.h>
#include <fmt/ranges.h>

#include <numeric>

#include "cbtm/device/model_operators.h"
#include "tests/operators/attention_reference.h"
#include "tests/operators/cases.h"

namespace cbtm {
namespace {

struct AttentionSettings {
  std::string what;
  DType dtype;
  int64_t num_heads, head_dim;
  std::vector<int32_t> queries;    ///< of each sequence
  std::vector<int32_t> keys = {};  ///< empty: as many
  float dropout = 0;
  int64_t slack = 0;  ///< elements by which rows are longer than a fused matrix of queries, keys and values
  int64_t first_column = 0;
  double magnitude = 1;    ///< of queries and keys
  bool gradients = false;  ///< finite differences too

  int64_t width() const { return num_heads * head_dim; }
  const std::vector<int32_t>& key_lengths() const { return keys.empty() ? queries : keys; }
};

std::vector<int32_t> offsets_of(const std::vector<int32_t>& lengths) {
  std::vector<int32_t> offsets{0};
  for (const int32_t length : lengths) offsets.push_back(offsets.back() + length);
  return offsets;
}

/// A shape with the memory that it refers to.
struct Sequences {
  explicit Sequences(const AttentionSettings& s)
      : query_offsets(offsets_of(s.queries)), key_offsets(offsets_of(s.key_lengths())), same(s.keys.empty()) {
    shape = {
        .num_heads = s.num_heads, .head_dim = s.head_dim, .scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim))};
    if (s.dropout > 0) {
      shape.dropout = {.probability = s.dropout, .seed = 0x123456789abcdefu, .step = 7, .site = 3, .first_row = 11};
      shape.dropout_columns = 1040;
    }
  }
  AttentionShape view() const {
    AttentionShape result = shape;
    result.query_offsets = query_offsets;
    result.key_offsets = same ? query_offsets : key_offsets;
    return result;
  }
  std::vector<int32_t> query_offsets, key_offsets;
  bool same;
  AttentionShape shape;
};

/// Calls visit(head, query row, first key row, number of keys seen) for every query of every head.
template <typename Visit>
void for_each_query(const AttentionSettings& s, const Sequences& sequences, const Visit& visit) {
  for (size_t i = 0; i < s.queries.size(); ++i)
    for (int64_t head = 0; head < s.num_heads; ++head)
      for (int64_t query = 0; query < s.queries[i]; ++query)
        visit(head, sequences.query_offsets[i] + query, int64_t{sequences.key_offsets[i]},
              query + 1 + s.key_lengths()[i] - s.queries[i]);
}

/// The queries, keys and values of a case, as slices of one matrix's rows.
struct Inputs {
  Operand query, key, value;
};

Placement fused(const AttentionSettings& s, int64_t part) {
  return {2 * s.width() + s.slack, s.first_column + part * s.width()};
}

Inputs add_inputs(OperatorCase& one, const AttentionSettings& s) {
  const int64_t query_rows = offsets_of(s.queries).back(), key_rows = offsets_of(s.key_lengths()).back();
  const int64_t width = s.width();
  return {
      one.input("query", s.dtype, query_rows, width, uniform_values(query_rows * width, 1, s.magnitude), fused(s, 0)),
      one.input("key", s.dtype, key_rows, width, uniform_values(key_rows * width, 2, s.magnitude), fused(s, 1)),
      one.input("value", s.dtype, key_rows, width, uniform_values(key_rows * width, 3), fused(s, 2))};
}

double pairs_seen(const AttentionSettings& s) {
  double pairs = 0;
  for (size_t i = 0; i < s.queries.size(); ++i) pairs += s.queries[i] * (s.key_lengths()[i] - (s.queries[i] - 1) / 2.0);
  return pairs * static_cast<double>(s.num_heads);
}

OperatorCase make_forward(const AttentionSettings& s) {
  OperatorCase one{.computed = s.dtype};
  const Sequences sequences(s);
  const Inputs in = add_inputs(one, s);
  const int64_t rows = sequences.query_offsets.back(), width = s.width();
  const Operand output = one.output("output", s.dtype, rows, width, {s.slack, s.first_column});
  const Operand log_sum_exp = one.output("log_sum_exp", DType::f32, rows, s.num_heads);
  one.flops = 4 * pairs_seen(s) * static_cast<double>(s.head_dim);
  one.run = [=](Device& device, OperandsOnDevice& on) {
    device.model_operators().attention_forward({.shape = sequences.view(),
                                                .query = on[in.query],
                                                .key = on[in.key],
                                                .value = on[in.value],
                                                .output = on[output],
                                                .log_sum_exp = on[log_sum_exp]});
  };
  one.reference = [=](Expectation& e) {
    const AttentionShape shape = sequences.view();
    for_each_query(s, sequences, [&](int64_t head, int64_t row, int64_t first_key, int64_t seen) {
      const int64_t column = head * s.head_dim;
      const QueryReference q = query_reference(
          s.dtype, static_cast<double>(shape.scale), s.head_dim, seen,
          [&](int64_t c) { return e[in.query].at(row, column + c); },
          [&](int64_t j, int64_t c) { return e[in.key].at(first_key + j, column + c); });
      e.expect(log_sum_exp, row, head, q.log_sum_exp);
      std::vector<Bounded> kept;
      for (int64_t j = 0; j < seen; ++j)
        kept.push_back(dropout_multiplier(shape, row, j, head) *
                       stored(q.exponentials[static_cast<size_t>(j)], s.dtype));
      for (int64_t c = 0; c < s.head_dim; ++c) {
        Sum sum(s.dtype);
        for (int64_t j = 0; j < seen; ++j)
          sum.add_product(kept[static_cast<size_t>(j)], e[in.value].at(first_key + j, column + c));
        e.expect(output, row, column + c, with_units(sum.result() / q.sum, 1));
      }
    });
  };
  return one;
}

/// Plain attention in float64: what both the backward pass reads and finite differences are taken of.
struct PlainAttention {
  std::vector<double> output, log_sum_exp, probabilities;  ///< probabilities: of each pair that is seen, in turn

  PlainAttention(const AttentionSettings& s, const Sequences& sequences, const std::vector<double>& query,
                 const std::vector<double>& key, const std::vector<double>& value) {
    const AttentionShape shape = sequences.view();
    const int64_t width = s.width();
    output.resize(query.size());
    log_sum_exp.resize(static_cast<size_t>(sequences.query_offsets.back() * s.num_heads));
    for_each_query(s, sequences, [&](int64_t head, int64_t row, int64_t first_key, int64_t seen) {
      const auto at = [&](int64_t of_row, int64_t c) {
        return static_cast<size_t>(of_row * width + head * s.head_dim + c);
      };
      std::vector<double> scores;
      for (int64_t j = 0; j < seen; ++j) {
        double score = 0;
        for (int64_t c = 0; c < s.head_dim; ++c) score += query[at(row, c)] * key[at(first_key + j, c)];
        scores.push_back(score * static_cast<double>(shape.scale));
      }
      const double highest = *std::ranges::max_element(scores);
      double sum = 0;
      for (const double score : scores) sum += std::exp(score - highest);
      const double lse = highest + std::log(sum);
      log_sum_exp[static_cast<size_t>(row * s.num_heads + head)] = lse;
      for (int64_t j = 0; j < seen; ++j) {
        const double p = std::exp(scores[static_cast<size_t>(j)] - lse);
        probabilities.push_back(p);
        const double kept = p * dropout_multiplier(shape, row, j, head);
        for (int64_t c = 0; c < s.head_dim; ++c) output[at(row, c)] += kept * value[at(first_key + j, c)];
      }
    });
  }
};

OperatorCase make_backward(const AttentionSettings& s) {
  OperatorCase one{.computed = s.dtype};
  const Sequences sequences(s);
  const Inputs in = add_inputs(one, s);
  const int64_t rows = sequences.query_offsets.back(), key_rows = sequences.key_offsets.back(), width = s.width();
  const std::vector<double> q = one.matrix(in.query).values, k = one.matrix(in.key).values,
                            v = one.matrix(in.value).values;
  const PlainAttention plain(s, sequences, q, k, v);
  const Operand output = one.input("output", s.dtype, rows, width, plain.output, {s.slack, s.first_column});
  const Operand log_sum_exp = one.input("log_sum_exp", DType::f32, rows, s.num_heads, plain.log_sum_exp);
  const Operand gradient =
      one.input("output_gradient", s.dtype, rows, width, uniform_values(rows * width, 4), {s.slack, s.first_column});
  const Operand query_gradient = one.output("query_gradient", s.dtype, rows, width, fused(s, 0));
  const Operand key_gradient = one.output("key_gradient", s.dtype, key_rows, width, fused(s, 1));
  const Operand value_gradient = one.output("value_gradient", s.dtype, key_rows, width, fused(s, 2));
  one.flops = 10 * pairs_seen(s) * static_cast<double>(s.head_dim);
  one.run = [=](Device& device, OperandsOnDevice& on) {
    device.model_operators().attention_backward({.shape = sequences.view(),
                                                 .query = on[in.query],
                                                 .key = on[in.key],
                                                 .value = on[in.value],
                                                 .output = on[output],
                                                 .log_sum_exp = on[log_sum_exp],
                                                 .output_gradient = on[gradient],
                                                 .query_gradient = on[query_gradient],
                                                 .key_gradient = on[key_gradient],
                                                 .value_gradient = on[value_gradient]});
  };
  one.reference = [=](Expectation& e) {
    const AttentionShape shape = sequences.view();
    const double scale = static_cast<double>(shape.scale);
    std::vector<Sum> query_sums(static_cast<size_t>(rows * width), Sum(s.dtype)),
        key_sums(static_cast<size_t>(key_rows * width), Sum(s.dtype)), value_sums(key_sums);
    for_each_query(s, sequences, [&](int64_t head, int64_t row, int64_t first_key, int64_t seen) {
      const auto at = [&](int64_t of_row, int64_t c) {
        return static_cast<size_t>(of_row * width + head * s.head_dim + c);
      };
      // The forward pass has stored its output and the sum's logarithm: rounded, of numbers without error here.
      const Bounded lse = stored(plain.log_sum_exp[static_cast<size_t>(row * s.num_heads + head)], DType::f32);
      Sum row_sum(s.dtype);
      for (int64_t c = 0; c < s.head_dim; ++c)
        row_sum.add_product(e[gradient].at(row, head * s.head_dim + c), stored(plain.output[at(row, c)], s.dtype));
      const Bounded row_term = row_sum.result();
      for (int64_t j = 0; j < seen; ++j) {
        Sum score(s.dtype), product(s.dtype);
        for (int64_t c = 0; c < s.head_dim; ++c) {
          score.add_product(with_units(scale * q[at(row, c)], 1), k[at(first_key + j, c)]);
          product.add_product(e[gradient].at(row, head * s.head_dim + c), v[at(first_key + j, c)]);
        }
        const Bounded of_pair = score.result();
        const double rounding = 2 * kRoundoff * (of_pair.size() + lse.size());
        const Bounded p = exp(Bounded(of_pair.value - lse.value, of_pair.error + lse.error + rounding));
        const double multiplier = dropout_multiplier(shape, row, j, head);
        const Bounded kept = stored(multiplier * p, s.dtype);
        const Bounded score_gradient = stored(p * (multiplier * product.result() - row_term), s.dtype);
        for (int64_t c = 0; c < s.head_dim; ++c) {
          value_sums[at(first_key + j, c)].add_product(kept, e[gradient].at(row, head * s.head_dim + c));
          key_sums[at(first_key + j, c)].add_product(score_gradient, with_units(scale * q[at(row, c)], 1));
          query_sums[at(row, c)].add_product(score_gradient, with_units(scale * k[at(first_key + j, c)], 1));
        }
      }
    });
    const auto expect_all = [&](Operand operand, int64_t row_count, const std::vector<Sum>& sums) {
      for (int64_t row = 0; row < row_count; ++row)
        for (int64_t column = 0; column < width; ++column)
          e.expect(operand, row, column, with_units(sums[static_cast<size_t>(row * width + column)].result(), 1));
    };
    expect_all(query_gradient, rows, query_sums);
    expect_all(key_gradient, key_rows, key_sums);
    expect_all(value_gradient, key_rows, value_sums);
  };
  if (!s.gradients) return one;
  const std::vector<double> g = one.matrix(gradient).values;
  const auto objective = [=](const std::vector<double>& query, const std::vector<double>& key,
                             const std::vector<double>& value) {
    Objective sum;
    const PlainAttention now(s, sequences, query, key, value);
    for (size_t i = 0; i < g.size(); ++i) sum.add(g[i] * now.output[i]);
    return sum;
  };
  one.gradients = {{query_gradient, q, [=](const std::vector<double>& point) { return objective(point, k, v); }},
                   {key_gradient, k, [=](const std::vector<double>& point) { return objective(q, point, v); }},
                   {value_gradient, v, [=](const std::vector<double>& point) { return objective(q, k, point); }}};
  return one;
}

}  // namespace

CaseList attention_cases() {
  CaseList cases;
  const auto add = [&](const AttentionSettings& s, bool large = false) {
    const std::string settings =
        fmt::format("{} {} heads of {}, {} queries{}{}", dtype_name(s.dtype), s.num_heads, s.head_dim,
                    fmt::join(s.queries, "+"), s.dropout > 0 ? ", dropout" : "", s.what.empty() ? "" : ", " + s.what);
    cases.push_back({"attention_forward " + settings, large, [s] { return make_forward(s); }});
    cases.push_back({"attention_backward " + settings, large, [s] { return make_backward(s); }});
  };
  // Tiles of keys are 32, 64 and 128 wide: lengths lie on both sides of them, and at 1.
  const std::vector<AttentionSettings> small = {
      {"", DType::f32, 2, 8, {5, 0, 1, 11}, {}, 0.2f, 0, 0, 1, true},
      {"more keys than queries", DType::f32, 2, 6, {3, 1, 4}, {7, 1, 9}, 0.2f, 0, 0, 1, true},
      {"", DType::bf16, 1, 16, {9, 4}, {}, 0.1f, 0, 0, 1, true},
      {"", DType::f16, 1, 16, {9, 4}, {}, 0, 0, 0, 1, true},
      {"", DType::f32, 1, 32, {1}},
      {"", DType::f32, 2, 32, {0}},
      {"", DType::f32, 2, 32, {65, 0, 1, 64, 7}},
      {"", DType::f32, 2, 16, {70, 33}, {}, 0.1f},
      {"odd head size", DType::f32, 3, 5, {66}, {}, 0.3f},
      {"rows at odd places", DType::f32, 2, 64, {70, 3}, {}, 0.1f, 1, 1},
      {"", DType::f32, 1, 80, {67}},
      {"", DType::f32, 1, 256, {33}},
      {"sharp", DType::f32, 1, 32, {80}, {}, 0, 0, 0, 12},
      {"more keys than queries", DType::f32, 2, 32, {3, 1, 66}, {70, 1, 100}, 0.2f},
      {"odd head size", DType::bf16, 2, 24, {66, 5}, {}, 0.1f},
      {"rows at odd places", DType::f16, 2, 64, {66, 5}, {}, 0.1f, 1, 1},
      {"", DType::bf16, 1, 64, {1}},
      {"", DType::bf16, 2, 64, {130, 0, 1, 33}},
      {"", DType::bf16, 2, 64, {131, 20}, {}, 0.1f},
      {"", DType::f16, 2, 80, {66, 7}, {}, 0.2f},
      {"", DType::bf16, 1, 96, {67}},
      {"", DType::bf16, 1, 128, {65, 40}, {}, 0.1f},
      {"sharp", DType::f16, 3, 32, {70}, {}, 0, 0, 0, 8},
      {"more keys than queries", DType::bf16, 2, 64, {3, 1, 66}, {70, 1, 140}, 0.2f},
      // Several tiles of 128 keys; tiles of one row; documents on both sides of a warpgroup's 64 rows and a tile's 128.
      {"", DType::bf16, 2, 64, {300, 1, 1, 64, 65, 128, 129, 5}},
      {"aligned slack", DType::f16, 2, 64, {140, 63}, {}, 0, 8, 8},
      {"more keys than queries", DType::f16, 1, 64, {70, 1, 3}, {300, 129, 131}},
      {"", DType::bf16, 2, 80, {258, 1, 31}, {}, 0.1f},
      {"", DType::f16, 1, 80, {140, 3}},
      {"sharp", DType::f16, 2, 128, {130, 2, 261}, {}, 0, 0, 0, 8},
      {"more keys than queries", DType::bf16, 1, 128, {129, 1}, {257, 40}},
  };
  for (const AttentionSettings& s : small) add(s);
  for (const DType dtype : kComputedTypes) add({"", dtype, kHeads, kHidden / kHeads, {1024}, {}, 0.1f}, true);
  return cases;
}

}  // namespace cbtm
