#pragma once

#include <string>
#include <vector>

#include "cbtm/device/output_operands.h"
#include "tests/operators/operator_case.h"

namespace cbtm {

/// A mixture of experts' next-token distributions.
struct MixtureSettings {
  DType dtype = DType::f32;
  int64_t sequences = 1, experts = 1, vocab = 1;
  double scale = 4;       ///< of the logits
  bool mapped = false;    ///< the experts' rows of a sequence are given
  bool product = false;   ///< of the distributions, with weights of both signs
  bool integers = false;  ///< logits are whole numbers, so that many are equal
};

struct MixtureOperands {
  std::vector<Operand> logits;  ///< of each expert
  Operand weights, rows;
  std::vector<ConstTensorView> views(const OperandsOnDevice& on) const;
};

/// Some weights are 0, and the rows of logits that no sequence uses are NaN. Some logits are -infinity.
MixtureOperands add_mixture(OperatorCase& one, const MixtureSettings& settings);

/// Log-probabilities of one sequence.
std::vector<Bounded> mixture_reference(const MixtureSettings& settings, const MixtureOperands& in,
                                       const Expectation& expectation, int64_t sequence);

inline MixtureKind kind_of(const MixtureSettings& settings) {
  return settings.product ? MixtureKind::product : MixtureKind::sum;
}

std::string mixture_name(const MixtureSettings& settings);

}  // namespace cbtm
