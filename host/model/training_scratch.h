#pragma once

#include <cstdint>

#include "cbtm/device/model_operators.h"
#include "cbtm/model/spec.h"
#include "cbtm/model/training_model.h"

namespace cbtm {

/// What the operators of a training take beside their operands.
struct TrainingScratch {
  int64_t scratch_bytes = 0;  ///< of the operator that takes most
  int64_t held_bytes = 0;     ///< of all, until the end of a backward pass

  int64_t total() const { return scratch_bytes + held_bytes; }
};
TrainingScratch training_scratch(const ModelOperators& operators, const ModelSpec& spec, const TrainingShape& shape);

}  // namespace cbtm
