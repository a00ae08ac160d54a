#pragma once

#include <span>
#include <string>

#include "cbtm/device/device.h"
#include "cbtm/plan/training_plan.h"
#include "cbtm/train/training_shape.h"

namespace cbtm {

/// What would fit where training `model` with these settings does not: smaller micro-batches, or the largest preset.
std::string what_would_fit(std::span<Device* const> devices, const ModelSpec& model, const TrainingSettings& settings,
                           const HostMemory& host);

}  // namespace cbtm
