#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cbtm/accounting/step_time.h"
#include "cbtm/device/device.h"
#include "cbtm/model/spec.h"
#include "cbtm/plan/corpus_survey.h"
#include "cbtm/train/trainer.h"
#include "cbtm/train/training_shape.h"

namespace cbtm {

/// How long the parts of a training take on one device.
struct TrainingTime {
  StepTime step;
  double scoring_seconds_per_token = 0;  ///< forward pass alone
  bool measured = false;                 ///< else computed from a rate that was given
  int64_t probe_sequences = 0;  ///< of the micro-batch that was timed; fewer than planned where that was too long
};

/// Where the times of trainings come from.
class TrainingTimer {
 public:
  virtual ~TrainingTimer() = default;
  /// Of a training of `spec` with micro-batches and memory as in `shape`. Throws Error.
  virtual TrainingTime time(const ModelSpec& spec, const TrainingSettings& settings, const ChosenShape& shape) = 0;
  /// Seconds of an optimizer step of the whole batch on all devices that were opened, which train together; nothing if
  /// there is one, or if nothing is measured.
  virtual std::optional<double> group_step(const ModelSpec& spec, const TrainingSettings& settings) = 0;
};

/// Takes a few optimizer steps of the very shape on random tokens. The same model and micro-batch are timed once.
/// `seconds`: about how long one shape may take; where one micro-batch takes longer than that by the device's peak, one
/// of fewer sequences is timed, and its time is scaled.
std::unique_ptr<TrainingTimer> probing_timer(std::span<Device* const> devices, double seconds);

/// From tokens per second in training of `base`; other models are slower in proportion to their FLOPs, scoring takes a
/// third of the time, and an update none of its own.
std::unique_ptr<TrainingTimer> given_timer(const ModelSpec& base, double tokens_per_second);

/// Seconds that the stages before the trainings took for a sample of the corpus, done by their own code in a temporary
/// directory.
struct CorpusStageTimes {
  int64_t documents = 0;                      ///< of the sample; 0: nothing was timed
  double tokenizer_seconds = 0;               ///< 0 if a tokenizer is given
  std::map<int64_t, double> cluster_seconds;  ///< by k; absent where the sample is too small for so many clusters
};

/// Times learning a tokenizer, unless `tokenizer` is given, and clustering into each of `ks`.
CorpusStageTimes time_corpus_stages(Device& device, const CorpusSurvey& survey, const SurveyOptions& options,
                                    const Tokenizer* tokenizer, std::span<const int64_t> ks);

}  // namespace cbtm
