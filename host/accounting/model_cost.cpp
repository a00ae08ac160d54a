#include "cbtm/accounting/model_cost.h"

#include "cbtm/base/error.h"
#include "cbtm/model/parameter_layout.h"

namespace cbtm {
namespace {

constexpr int64_t kFloatBytes = 4;

}  // namespace

int64_t total_parameters(const ModelSpec& spec) { return ParameterLayout(spec).parameter_count(); }

int64_t active_parameters(const ModelSpec& spec) { return ParameterLayout(spec).active_parameter_count(); }

double forward_flops(const ModelSpec& spec, double context) {
  double attended = 0;
  for (const BlockSpec& block : spec.blocks) attended += static_cast<double>(block.attention.width());
  return 2 * static_cast<double>(spec.matrix_parameter_count()) + 4 * attended * context;
}

double training_flops(const ModelSpec& spec, int64_t sequence_length) {
  return 3 * forward_flops(spec, static_cast<double>(sequence_length) / 2);
}

int64_t checkpoint_bytes(const ModelSpec& spec) { return kFloatBytes * total_parameters(spec); }

int64_t training_state_bytes(const ModelSpec& spec) { return 3 * kFloatBytes * ParameterLayout(spec).flat_size(); }

int64_t key_value_bytes(const ModelSpec& spec, DType dtype) {
  return 2 * spec.layers() * spec.key_value_width() * dtype_bytes(dtype);
}

int64_t exchange_bytes(const ModelSpec& spec, DType dtype, int64_t devices) {
  CBTM_ASSERT(devices >= 1, "a model is trained on at least one device");
  const ParameterLayout layout(spec);
  const int64_t matrices = layout.matrix_flat_size();
  const int64_t vectors = layout.flat_size() - matrices;
  // In a ring each device sends (n - 1) / n of the buffer once to reduce and scatter it, and once more to gather it.
  return (devices - 1) * (matrices * (kFloatBytes + dtype_bytes(dtype)) + 2 * vectors * kFloatBytes) / devices;
}

}  // namespace cbtm
