#include "cbtm/train/expert_settings.h"

#include "cbtm/base/error.h"

namespace cbtm {

TrainingSettings expert_settings(const TrainingSettings& dense, int64_t clusters, bool keep_batch) {
  TrainingSettings expert = dense;
  if (keep_batch) {
    expert.steps = (dense.steps + clusters - 1) / clusters;
    expert.warmup_steps = dense.warmup_steps / clusters;
    return expert;
  }
  if (dense.batch_sequences % clusters != 0)
    fail_usage(
        "the dense batch of {} sequences of {} tokens cannot be divided among {} experts; make --batch-tokens a "
        "multiple of {}, or pass --match batch",
        dense.batch_sequences, dense.sequence_length, clusters, dense.sequence_length * clusters);
  expert.batch_sequences = dense.batch_sequences / clusters;
  return expert;
}

}  // namespace cbtm
