#include "cbtm/run/training_summary.h"

namespace cbtm {

Json training_summary_json(const TrainingSummary& summary) {
  return {{"steps", summary.steps},
          {"tokens", summary.tokens},
          {"skipped_steps", summary.skipped_steps},
          {"loss", summary.loss},
          {"held_out_loss", summary.held_out_loss},
          {"training_seconds", summary.training_seconds}};
}

TrainingSummary parse_training_summary(const Json& json, const std::string& file) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  constexpr int64_t kCountMax = int64_t{1} << 56;
  constexpr double kSecondsMax = 1e12;
  if (json.is_null()) return {};
  const JsonReader read(json, file, "restore the file, or train the model again with --redo");
  return {.steps = read.integer_or("steps", -1, 0, kCountMax),
          .tokens = read.integer_or("tokens", -1, 0, kCountMax),
          .skipped_steps = read.integer_or("skipped_steps", -1, 0, kCountMax),
          .loss = read.number_or("loss", kNan),
          .held_out_loss = read.number_or("held_out_loss", kNan),
          .training_seconds = read.number_or("training_seconds", kNan, 0, kSecondsMax)};
}

}  // namespace cbtm
