#include <fmt/format.h>

#include "cbtm/device/model_operators.h"
#include "tests/operators/cases.h"
#include "tests/operators/dropout_reference.h"

namespace cbtm {
namespace {

enum class Variant {
  full,      ///< every operand
  plain,     ///< no branch, no sum, no statistics; backward: no incoming gradient, no gamma, no branch
  in_place,  ///< the sum, or its gradient and the branch's, take the place of what is read
  no_norm,   ///< the sum alone; backward: the dropout's mask alone
};

const char* variant_name(Variant variant) {
  switch (variant) {
    case Variant::full: return "full";
    case Variant::plain: return "plain";
    case Variant::in_place: return "in place";
    case Variant::no_norm: return "no norm";
  }
  return "";
}

struct LayerNormSettings {
  int64_t rows, width;
  DType dtype = DType::f32;
  Variant variant = Variant::full;
  Placement placement = {};
  int64_t first_row = 1'000'003;
};

constexpr double kEpsilon = 1e-5f;

/// The additions that one of `width` numbers goes through: a row is summed in 4 lanes at least, which are joined then.
int64_t sum_depth(int64_t width) { return width / 4 + 16; }

Dropout dropout_of(const LayerNormSettings& s) {
  if (s.variant == Variant::plain) return {};
  // Half: the multiplier 2 keeps sums of 16-bit operands exact.
  return {.probability = s.dtype == DType::f32 ? 0.3f : 0.5f,
          .seed = 0x123456789abcdefull,
          .step = 5,
          .site = 9,
          .first_row = s.first_row};
}

double multiplier(const LayerNormSettings& s, int64_t row, int64_t column) {
  return dropout_multiplier(dropout_of(s), row, column, s.width);
}

/// The rows' values. Without a branch: an outlier as in OPT's residual stream, and a row far from zero. With one and 16
/// bits: multiples of 1/16 below 4, so that the sum is exact. The statistics are those of the sum as it is stored, and
/// so would say nothing about a reference that does not know how it was rounded.
std::vector<double> row_values(const LayerNormSettings& s, bool branch, uint64_t seed) {
  const int64_t count = s.rows * s.width;
  if (branch && s.dtype != DType::f32) {
    std::vector<double> values = uniform_ids(count, 63, seed);
    for (double& value : values) value = (value - 31) / 16;
    return values;
  }
  std::vector<double> values = uniform_values(count, seed);
  if (!branch && s.rows > 0 && s.width > 4) {
    // Not so far that bfloat16 leaves nothing of the differences.
    const double offset = s.dtype == DType::f32 ? 300 : 30;
    values[static_cast<size_t>(s.width / 2)] = 6000;
    if (s.width < 1100)
      for (int64_t c = 0; c < s.width; ++c) values[static_cast<size_t>((s.rows - 1) * s.width + c)] += offset;
  }
  return values;
}

struct Statistics {
  Bounded mean, rstd;
};

template <typename Row>
Statistics statistics_of(int64_t width, const Row& row) {
  Sum sum, squares;
  for (int64_t c = 0; c < width; ++c) sum.add(row(c));
  const Bounded mean = sum.result(sum_depth(width)) / static_cast<double>(width);
  for (int64_t c = 0; c < width; ++c) {
    const Bounded centred = row(c) - mean;
    squares.add_product(centred, centred);
  }
  const Bounded variance = squares.result(sum_depth(width)) / static_cast<double>(width);
  return {mean, with_units(1.0 / sqrt(variance + kEpsilon), 2)};
}

OperatorCase make_forward(const LayerNormSettings& s) {
  OperatorCase one{.computed = s.dtype};
  const bool with_branch = s.variant != Variant::plain, normalizes = s.variant != Variant::no_norm;
  const bool in_place = s.variant == Variant::in_place, with_statistics = s.variant == Variant::full;
  const auto residual_values = row_values(s, with_branch, 1);
  const Operand residual = in_place ? one.updated("sum", s.dtype, s.rows, s.width, residual_values, s.placement)
                                    : one.input("residual", s.dtype, s.rows, s.width, residual_values, s.placement);
  Operand branch, sum, normalized, gamma, beta, mean, rstd;
  if (with_branch) {
    branch = one.input("branch", s.dtype, s.rows, s.width, row_values(s, true, 2), s.placement);
    sum = in_place ? residual : one.output("sum", s.dtype, s.rows, s.width, s.placement);
  }
  if (normalizes) {
    normalized = one.output("normalized", s.dtype, s.rows, s.width, s.placement);
    // Norms' parameters are float32 in training, and of the activations' type in inference.
    gamma = one.input("gamma", with_statistics ? DType::f32 : s.dtype, 1, s.width, uniform_values(s.width, 3));
    beta = one.input("beta", DType::f32, 1, s.width, uniform_values(s.width, 4));
  }
  if (with_statistics) {
    mean = one.output("mean", DType::f32, 1, s.rows);
    rstd = one.output("rstd", DType::f32, 1, s.rows);
  }
  one.run = [=](Device& device, OperandsOnDevice& on) {
    device.model_operators().residual_layernorm_forward({.residual = on[residual],
                                                         .branch = on[branch],
                                                         .dropout = dropout_of(s),
                                                         .gamma = on[gamma],
                                                         .beta = on[beta],
                                                         .sum = on[sum],
                                                         .normalized = on[normalized],
                                                         .mean = on[mean],
                                                         .rstd = on[rstd]});
  };
  one.reference = [=](Expectation& e) {
    for (int64_t r = 0; r < s.rows; ++r) {
      const auto x = [&](int64_t c) -> Bounded {
        const double before = e[residual].at(r, c);
        if (!with_branch) return before;
        const double value = before + e[branch].at(r, c) * multiplier(s, r, c);
        return s.dtype == DType::f32 ? rounded(value, 2 * kRoundoff * std::abs(value - before)) : Bounded(value);
      };
      for (int64_t c = 0; c < s.width && with_branch; ++c) e.expect(sum, r, c, x(c));
      if (!normalizes) continue;
      const Statistics of_row = statistics_of(s.width, x);
      for (int64_t c = 0; c < s.width; ++c)
        e.expect(normalized, r, c, (x(c) - of_row.mean) * of_row.rstd * e[gamma].at(0, c) + e[beta].at(0, c));
      if (!with_statistics) continue;
      e.expect(mean, 0, r, of_row.mean);
      e.expect(rstd, 0, r, of_row.rstd);
    }
  };
  return one;
}

OperatorCase make_backward(const LayerNormSettings& s) {
  OperatorCase one{.computed = s.dtype};
  const bool full = s.variant == Variant::full, in_place = s.variant == Variant::in_place;
  const bool normalizes = s.variant != Variant::no_norm, with_branch = s.variant != Variant::plain;
  const bool with_gamma = full || in_place;
  const auto rows_input = [&](const char* name, uint64_t seed) {
    return one.input(name, s.dtype, s.rows, s.width, uniform_values(s.rows * s.width, seed), s.placement);
  };
  Operand gradient, incoming, sum, gamma, mean, rstd, sum_gradient, branch_gradient, gamma_gradient, beta_gradient;
  std::vector<Statistics> statistics;
  if (normalizes) {
    gradient = rows_input("normalized_gradient", 1);
    sum = one.input("sum", s.dtype, s.rows, s.width, row_values(s, false, 3), s.placement);
    std::vector<double> means, rstds;
    for (int64_t r = 0; r < s.rows; ++r) {
      Statistics of_row = statistics_of(s.width, [&](int64_t c) { return Bounded(one.matrix(sum).at(r, c)); });
      // The operator reads them as float32 numbers.
      of_row.mean.error = of_row.rstd.error = 0;
      statistics.push_back({stored(of_row.mean, DType::f32), stored(of_row.rstd, DType::f32)});
      means.push_back(of_row.mean.value);
      rstds.push_back(of_row.rstd.value);
    }
    mean = one.input("mean", DType::f32, 1, s.rows, means);
    rstd = one.input("rstd", DType::f32, 1, s.rows, rstds);
  }
  if (in_place)
    incoming = one.updated("sum_gradient", s.dtype, s.rows, s.width, uniform_values(s.rows * s.width, 2), s.placement);
  else if (s.variant != Variant::plain)
    incoming = rows_input("sum_gradient_in", 2);
  sum_gradient = in_place ? incoming : one.output("sum_gradient", s.dtype, s.rows, s.width, s.placement);
  if (with_branch) branch_gradient = one.output("branch_gradient", s.dtype, s.rows, s.width, s.placement);
  if (with_gamma) {
    gamma = one.input("gamma", DType::f32, 1, s.width, uniform_values(s.width, 6));
    gamma_gradient = one.updated("gamma_gradient", DType::f32, 1, s.width, uniform_values(s.width, 7));
    beta_gradient = one.updated("beta_gradient", DType::f32, 1, s.width, uniform_values(s.width, 8));
  }
  one.run = [=](Device& device, OperandsOnDevice& on) {
    device.model_operators().residual_layernorm_backward({.normalized_gradient = on[gradient],
                                                          .sum_gradient_in = on[incoming],
                                                          .sum = on[sum],
                                                          .mean = on[mean],
                                                          .rstd = on[rstd],
                                                          .gamma = on[gamma],
                                                          .dropout = dropout_of(s),
                                                          .sum_gradient = on[sum_gradient],
                                                          .branch_gradient = on[branch_gradient],
                                                          .gamma_gradient = on[gamma_gradient],
                                                          .beta_gradient = on[beta_gradient]});
  };
  one.reference = [=](Expectation& e) {
    std::vector<Sum> gamma_sums(static_cast<size_t>(s.width)), beta_sums(gamma_sums);
    for (int64_t c = 0; c < s.width && with_gamma; ++c) {
      gamma_sums[static_cast<size_t>(c)].add(e[gamma_gradient].at(0, c));
      beta_sums[static_cast<size_t>(c)].add(e[beta_gradient].at(0, c));
    }
    for (int64_t r = 0; r < s.rows; ++r) {
      const auto unit = [&](int64_t c) {
        const Statistics& of_row = statistics[static_cast<size_t>(r)];
        return (e[sum].at(r, c) - of_row.mean) * of_row.rstd;
      };
      const auto g = [&](int64_t c) -> Bounded {
        return with_gamma ? e[gradient].at(r, c) * Bounded(e[gamma].at(0, c)) : Bounded(e[gradient].at(r, c));
      };
      Sum gradients, products;
      for (int64_t c = 0; c < s.width && normalizes; ++c) {
        gradients.add(g(c));
        products.add_product(g(c), unit(c));
      }
      const Bounded gradient_mean = gradients.result(sum_depth(s.width)) / static_cast<double>(s.width);
      const Bounded product_mean = products.result(sum_depth(s.width)) / static_cast<double>(s.width);
      for (int64_t c = 0; c < s.width; ++c) {
        Bounded dx = incoming ? e[incoming].at(r, c) : 0.0;
        if (normalizes)
          dx = statistics[static_cast<size_t>(r)].rstd * (g(c) - gradient_mean - unit(c) * product_mean) + dx;
        e.expect(sum_gradient, r, c, dx);
        if (with_branch) e.expect(branch_gradient, r, c, with_units(multiplier(s, r, c) * dx, 1));
        if (!with_gamma) continue;
        gamma_sums[static_cast<size_t>(c)].add_product(e[gradient].at(r, c), unit(c));
        beta_sums[static_cast<size_t>(c)].add(e[gradient].at(r, c));
      }
    }
    for (int64_t c = 0; c < s.width && with_gamma; ++c) {
      e.expect(gamma_gradient, 0, c, gamma_sums[static_cast<size_t>(c)].result());
      e.expect(beta_gradient, 0, c, beta_sums[static_cast<size_t>(c)].result());
    }
  };
  if (!normalizes || s.rows * s.width > 10'000) return one;

  // Σ normalized_gradient * normalized + incoming * sum, of the sum, gamma and beta.
  const auto values_of = [&](Operand operand, double otherwise, size_t count) {
    return operand ? one.matrix(operand).values : std::vector<double>(count, otherwise);
  };
  const std::vector<double> x0 = one.matrix(sum).values, dy = one.matrix(gradient).values;
  const std::vector<double> ds = values_of(incoming, 0, x0.size()),
                            gammas = values_of(gamma, 1, static_cast<size_t>(s.width));
  const std::vector<double> betas(static_cast<size_t>(s.width));
  const auto objective = [=](const std::vector<double>& x, const std::vector<double>& gamma_of,
                             const std::vector<double>& beta_of) {
    Objective total;
    for (int64_t r = 0; r < s.rows; ++r) {
      const auto at = static_cast<size_t>(r * s.width);
      double row_mean = 0, variance = 0;
      for (size_t c = 0; c < gamma_of.size(); ++c) row_mean += x[at + c];
      row_mean /= static_cast<double>(s.width);
      for (size_t c = 0; c < gamma_of.size(); ++c) variance += (x[at + c] - row_mean) * (x[at + c] - row_mean);
      const double row_rstd = 1 / std::sqrt(variance / static_cast<double>(s.width) + kEpsilon);
      for (size_t c = 0; c < gamma_of.size(); ++c) {
        total.add(dy[at + c] * ((x[at + c] - row_mean) * row_rstd * gamma_of[c] + beta_of[c]));
        total.add(ds[at + c] * x[at + c]);
      }
    }
    return total;
  };
  one.gradients.push_back(
      {sum_gradient, x0, [=](const std::vector<double>& x) { return objective(x, gammas, betas); }});
  if (in_place) one.gradients.clear();  // what was there is no part of what is added to it
  if (with_branch)
    one.gradients.push_back({branch_gradient, std::vector<double>(x0.size()), [=](const std::vector<double>& branch) {
                               std::vector<double> x = x0;
                               for (size_t i = 0; i < x.size(); ++i)
                                 x[i] += branch[i] * multiplier(s, static_cast<int64_t>(i) / s.width,
                                                                static_cast<int64_t>(i) % s.width);
                               return objective(x, gammas, betas);
                             }});
  if (with_gamma) {
    one.gradients.push_back(
        {gamma_gradient, gammas, [=](const std::vector<double>& point) { return objective(x0, point, betas); }});
    one.gradients.push_back(
        {beta_gradient, betas, [=](const std::vector<double>& point) { return objective(x0, gammas, point); }});
  }
  return one;
}

}  // namespace

CaseList layernorm_cases() {
  CaseList cases;
  const auto add = [&](const LayerNormSettings& s, bool large = false) {
    const std::string settings = fmt::format("{} {}x{} {}{}", dtype_name(s.dtype), s.rows, s.width,
                                             variant_name(s.variant), s.placement.gap > 0 ? " strided" : "");
    cases.push_back({"residual_layernorm_forward " + settings, large, [s] { return make_forward(s); }});
    cases.push_back({"residual_layernorm_backward " + settings, large, [s] { return make_backward(s); }});
  };
  // One element, odd widths, around a warp's and a block's reach, real widths, rows that start anywhere.
  const std::vector<LayerNormSettings> shapes = {
      {.rows = 1, .width = 1},
      {.rows = 3, .width = 31},
      {.rows = 5, .width = 768},
      {.rows = 2, .width = 1023, .placement = {17, 8}},
      {.rows = 3, .width = 129, .placement = {71, 3}},
      {.rows = 2, .width = 4104},
      {.rows = 2, .width = 4100, .placement = {1, 1}},
      {.rows = 1, .width = 12288},
      {.rows = 1200, .width = 40},
      {.rows = 0, .width = 8},
  };
  for (LayerNormSettings s : shapes)
    for (const DType dtype : kComputedTypes)
      for (const Variant variant : {Variant::full, Variant::plain, Variant::in_place}) {
        s.dtype = dtype;
        s.variant = variant;
        add(s);
      }
  // Wherever a batch is cut, the elements that are dropped are those that cbtm/device/dropout.h says.
  for (const DType dtype : kComputedTypes)
    for (const int64_t width : {1, 3, 31, 64, 129})
      for (const int64_t first_row : {int64_t{0}, int64_t{7}, (int64_t{1} << 32) / ((width + 15) / 16) - 2})
        add({.rows = 5, .width = width, .dtype = dtype, .variant = Variant::no_norm, .first_row = first_row});
  for (const DType dtype : kComputedTypes) add({.rows = kTrainingRows, .width = kHidden, .dtype = dtype}, true);
  return cases;
}

}  // namespace cbtm
