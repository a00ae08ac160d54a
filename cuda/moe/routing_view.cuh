#pragma once

#include "cbtm/device/moe_operands.h"

namespace cbtm::cuda {

/// An ExpertRouting as kernels take it.
struct RoutingView {
  float* logits = nullptr;
  int64_t logits_stride = 0;
  int32_t* choices = nullptr;
  int64_t choices_stride = 0;
  float* weights = nullptr;
  int64_t weights_stride = 0;
  int32_t* sorted_row = nullptr;
  int64_t sorted_row_stride = 0;
  int32_t* offsets = nullptr;
  int32_t* sources = nullptr;
  int32_t* first_counts = nullptr;
  int rows = 0;
  int experts = 0;

  RoutingView() = default;
  explicit RoutingView(const ExpertRouting& routing)
      : logits(routing.logits.as<float>()),
        logits_stride(routing.logits.row_stride),
        choices(routing.choices.as<int32_t>()),
        choices_stride(routing.choices.row_stride),
        weights(routing.weights.as<float>()),
        weights_stride(routing.weights.row_stride),
        sorted_row(routing.sorted_row.as<int32_t>()),
        sorted_row_stride(routing.sorted_row.row_stride),
        offsets(routing.offsets.as<int32_t>()),
        sources(routing.sources.as<int32_t>()),
        first_counts(routing.first_counts.as<int32_t>()),
        rows(static_cast<int>(routing.rows())),
        experts(static_cast<int>(routing.experts())) {}
};

}  // namespace cbtm::cuda
