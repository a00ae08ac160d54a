#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "cbtm/device/device.h"
#include "cbtm/model/spec.h"
#include "cbtm/model/training_model.h"
#include "cbtm/train/trainer.h"
#include "prefix/prefix_documents.h"

namespace cbtm {

/// Weights and moments of one model, in layout order.
struct ModelState {
  std::vector<float> weights, first_moments, second_moments;
};

/// How the models are trained in a round; the same for all of them.
struct RoundPlan {
  int64_t batch = 0;  ///< prefixes of a step
  int64_t steps = 0;  ///< of a round
  int64_t rounds = 0;
  int64_t prefix_tokens = 0;  ///< of the longest sequence
  double learning_rate = 0;   ///< peak
  int32_t start = 0;          ///< the token before a prefix
  uint64_t seed = 0;
};

/// Trains models one after another on one device.
class RoundTraining {
 public:
  /// Plans the memory for one model. Throws Error if it does not fit.
  RoundTraining(Device& device, const ModelSpec& spec, const RoundPlan& plan);

  /// The steps of `round` (from 0) for model `number`, on `share` of the documents: in random orders, over and over.
  /// AdamW with the settings of other trainings, without dropout. Throws Error when a signal asks to stop, and if five
  /// steps in a row are not finite.
  void train(ModelState& state, int64_t round, int64_t number, const Prefixes& documents,
             std::span<const int64_t> share) const;

 private:
  Device& device_;
  const ModelSpec& spec_;
  RoundPlan plan_;
  /// Of all rounds as one training: linear warm-up over the first twentieth, then linear decay to a tenth of the peak.
  TrainingSettings settings_;
  int64_t rows_ = 0;  ///< tokens of a micro-batch at most
  DType dtype_ = DType::f32;
  Keep keep_ = Keep::everything;
};

}  // namespace cbtm
