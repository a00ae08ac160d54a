#include <fmt/format.h>

#include "cbtm/device/model_operators.h"
#include "tests/operators/cases.h"
#include "tests/operators/mixture_reference.h"

namespace cbtm {
namespace {

OperatorCase make_mixture(const MixtureSettings& s) {
  OperatorCase one{.computed = s.dtype};
  const MixtureOperands in = add_mixture(one, s);
  const Operand out = one.output("log_probabilities", DType::f32, s.sequences, s.vocab);
  one.run = [=](Device& device, OperandsOnDevice& on) {
    const std::vector<ConstTensorView> logits = in.views(on);
    device.model_operators().mixture_log_probabilities({.logits = logits,
                                                        .weights = on[in.weights],
                                                        .log_probabilities = on[out],
                                                        .rows = on[in.rows],
                                                        .kind = kind_of(s)});
  };
  one.reference = [=](Expectation& e) {
    for (int64_t sequence = 0; sequence < s.sequences; ++sequence) {
      const std::vector<Bounded> row = mixture_reference(s, in, e, sequence);
      for (int64_t v = 0; v < s.vocab; ++v) e.expect(out, sequence, v, row[static_cast<size_t>(v)]);
    }
  };
  return one;
}

}  // namespace

CaseList mixture_cases() {
  CaseList cases;
  const auto add = [&](const MixtureSettings& s, bool large = false) {
    cases.push_back({"mixture_log_probabilities " + mixture_name(s), large, [s] { return make_mixture(s); }});
  };
  for (const bool mapped : {false, true}) {
    add({.sequences = 1, .experts = 1, .vocab = 1, .mapped = mapped, .product = true});
    add({.sequences = 3, .experts = 3, .vocab = 203, .scale = 8, .mapped = mapped, .product = true});
    add({.sequences = 2, .experts = 4, .vocab = 5000, .scale = 8, .mapped = mapped, .product = true});
    add({.dtype = DType::bf16, .sequences = 2, .experts = 2, .vocab = 4104, .mapped = mapped, .product = true});
    add({.dtype = DType::f16, .sequences = 3, .experts = 5, .vocab = 101, .mapped = mapped, .product = true});
    add({.sequences = 1, .experts = 1, .vocab = 1, .mapped = mapped});
    add({.sequences = 3, .experts = 2, .vocab = 31, .scale = 5, .mapped = mapped});
    add({.sequences = 3, .experts = 3, .vocab = 203, .scale = 8, .mapped = mapped});
    add({.sequences = 2, .experts = 4, .vocab = 5000, .scale = 8, .mapped = mapped});
    add({.sequences = 1, .experts = 3, .vocab = 4099, .scale = 2, .mapped = mapped});
    add({.sequences = 4, .experts = 7, .vocab = 2048, .scale = 10, .mapped = mapped});
    add({.dtype = DType::bf16, .sequences = 2, .experts = 2, .vocab = 4104, .scale = 4, .mapped = mapped});
    add({.dtype = DType::f16, .sequences = 3, .experts = 2, .vocab = 101, .scale = 4, .mapped = mapped});
  }
  add({.sequences = 8, .experts = 3, .vocab = kVocabSize, .mapped = true, .product = true}, true);
  for (const int64_t sequences : {1, 8})
    add({.sequences = sequences, .experts = 4, .vocab = kVocabSize, .mapped = true}, true);
  return cases;
}

}  // namespace cbtm
