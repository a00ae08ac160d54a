#include "tests/operators/mixture_reference.h"

#include <fmt/format.h>

#include "cbtm/base/error.h"

namespace cbtm {
namespace {

bool used(const MixtureSettings& s, int64_t sequence, int64_t expert) {
  return s.experts == 1 || (sequence + expert) % 3 != 1;
}
int64_t row_of(const MixtureSettings& s, int64_t sequence, int64_t expert) {
  return s.mapped ? (sequence + expert) % s.sequences : sequence;
}

}  // namespace

std::vector<ConstTensorView> MixtureOperands::views(const OperandsOnDevice& on) const {
  std::vector<ConstTensorView> result;
  for (const Operand expert : logits) result.push_back(on[expert]);
  return result;
}

MixtureOperands add_mixture(OperatorCase& one, const MixtureSettings& s) {
  MixtureOperands in;
  for (int64_t expert = 0; expert < s.experts; ++expert) {
    std::vector<double> values(static_cast<size_t>(s.sequences * s.vocab), NAN);
    for (int64_t sequence = 0; sequence < s.sequences; ++sequence) {
      if (!used(s, sequence, expert)) continue;
      const int64_t row = row_of(s, sequence, expert);
      std::vector<double> logits = uniform_values(s.vocab, static_cast<uint64_t>(100 * expert + row + 10), s.scale);
      if (s.integers)
        for (double& logit : logits) logit = std::round(logit);
      logits[static_cast<size_t>(s.vocab / 2)] = s.scale * 2;
      if (s.vocab > 3 && !s.product) logits[1] = logits[3] = -INFINITY;
      std::ranges::copy(logits, values.begin() + row * s.vocab);
    }
    in.logits.push_back(one.input(fmt::format("logits of expert {}", expert), s.dtype, s.sequences, s.vocab, values));
  }
  std::vector<double> weights, rows;
  for (int64_t sequence = 0; sequence < s.sequences; ++sequence) {
    double sum = 0;
    for (int64_t expert = 0; expert < s.experts; ++expert) {
      weights.push_back(used(s, sequence, expert) ? 1 + static_cast<double>(expert) : 0);
      // A row that is not used is not read, so its number may be anything.
      rows.push_back(used(s, sequence, expert) ? static_cast<double>(row_of(s, sequence, expert)) : 99);
      sum += weights.back();
    }
    CBTM_ASSERT(sum > 0, "a sequence has an expert");
    for (int64_t expert = 0; expert < s.experts; ++expert)
      weights[static_cast<size_t>(sequence * s.experts + expert)] *=
          s.product ? expert % 2 == 1 ? -0.25 : 0.5 : 1 / sum;
  }
  in.weights = one.input("weights", DType::f32, s.sequences, s.experts, weights);
  if (s.mapped) in.rows = one.input("rows", DType::i32, s.sequences, s.experts, rows);
  return in;
}

namespace {

/// log Σ exp of a row's values.
Bounded log_sum(const std::vector<Bounded>& values) {
  double highest = -INFINITY;
  for (const Bounded& value : values) highest = std::max(highest, value.value);
  Sum sum;
  for (const Bounded& value : values) sum.add(with_units(exp(value - highest), 32));
  return log(sum.result(static_cast<int64_t>(values.size()) / 4 + 16)) + highest;
}

std::vector<Bounded> product_reference(const MixtureSettings& s, const MixtureOperands& in, const Expectation& e,
                                       int64_t sequence) {
  std::vector<Sum> sums(static_cast<size_t>(s.vocab));
  for (int64_t expert = 0; expert < s.experts; ++expert) {
    if (!used(s, sequence, expert)) continue;
    std::vector<Bounded> logits;
    for (int64_t v = 0; v < s.vocab; ++v)
      logits.emplace_back(e[in.logits[static_cast<size_t>(expert)]].at(row_of(s, sequence, expert), v));
    const Bounded shift = log_sum(logits);
    const Bounded weight(e[in.weights].at(sequence, expert));
    for (int64_t v = 0; v < s.vocab; ++v)
      sums[static_cast<size_t>(v)].add_product(weight, logits[static_cast<size_t>(v)] - shift);
  }
  std::vector<Bounded> values;
  for (const Sum& sum : sums) values.push_back(sum.result());
  const Bounded shift = log_sum(values);
  for (Bounded& value : values) value = value - shift;
  return values;
}

}  // namespace

std::vector<Bounded> mixture_reference(const MixtureSettings& s, const MixtureOperands& in, const Expectation& e,
                                       int64_t sequence) {
  if (s.product) return product_reference(s, in, e, sequence);
  std::vector<Sum> mixed(static_cast<size_t>(s.vocab));
  for (int64_t expert = 0; expert < s.experts; ++expert) {
    if (!used(s, sequence, expert)) continue;
    const HostMatrix& logits = e[in.logits[static_cast<size_t>(expert)]];
    const int64_t row = row_of(s, sequence, expert);
    double highest = -INFINITY;
    for (int64_t v = 0; v < s.vocab; ++v) highest = std::max(highest, logits.at(row, v));
    // exp(-infinity) is 0; the difference itself would have an infinite error. Partial sums of a row may have maxima of
    // their own, which rescale them twice.
    const auto exponential = [&](int64_t v) -> Bounded {
      const double logit = logits.at(row, v);
      return std::isinf(logit) ? Bounded(0.0) : with_units(exp(Bounded(logit) - highest), 32);
    };
    Sum sum;
    for (int64_t v = 0; v < s.vocab; ++v) sum.add(exponential(v));
    // Four lanes at least, which are joined then.
    const Bounded factor = e[in.weights].at(sequence, expert) / sum.result(s.vocab / 4 + 16);
    for (int64_t v = 0; v < s.vocab; ++v) mixed[static_cast<size_t>(v)].add_product(factor, exponential(v));
  }
  std::vector<Bounded> result;
  for (const Sum& sum : mixed) result.push_back(log(sum.result()));
  return result;
}

std::string mixture_name(const MixtureSettings& s) {
  return fmt::format("{} {} sequences, {} experts, {} tokens{}{}{}", dtype_name(s.dtype), s.sequences, s.experts,
                     s.vocab, s.mapped ? ", mapped rows" : "", s.integers ? ", ties" : "",
                     s.product ? ", product" : "");
}

}  // namespace cbtm
