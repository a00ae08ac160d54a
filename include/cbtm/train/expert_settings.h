#pragma once

#include "cbtm/train/trainer.h"

namespace cbtm {

/// The settings of an expert beside a dense model of the same compute: the same steps with 1/k of the batch
/// (docs/method.md, 'Training'), or with `keep_batch` the same batch and 1/k of the steps. Throws a usage Error if the
/// batch cannot be divided by k.
TrainingSettings expert_settings(const TrainingSettings& dense, int64_t clusters, bool keep_batch);

}  // namespace cbtm
