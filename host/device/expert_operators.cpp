#include "cbtm/base/error.h"
#include "cbtm/device/model_operators.h"

namespace cbtm {
namespace {

[[noreturn]] void refuse() { throw Error("this device has no operators for mixtures of experts; use --device cpu"); }

}  // namespace

// By default, for devices without the operators.
void ModelOperators::route_tokens(const RouteTokens&) { refuse(); }
void ModelOperators::route_tokens_backward(const RouteTokensBackward&) { refuse(); }
void ModelOperators::gather_expert_rows(const GatherExpertRows&) { refuse(); }
void ModelOperators::scatter_expert_rows(const ScatterExpertRows&) { refuse(); }
void ModelOperators::expert_linear_forward(const ExpertLinearForward&) { refuse(); }
void ModelOperators::expert_linear_backward(const ExpertLinearBackward&) { refuse(); }
void ModelOperators::combine_expert_rows(const CombineExpertRows&) { refuse(); }
void ModelOperators::combine_expert_rows_backward(const CombineExpertRowsBackward&) { refuse(); }

int64_t ModelOperators::scratch_bytes(const RouteTokens&) const { refuse(); }
int64_t ModelOperators::scratch_bytes(const RouteTokensBackward&) const { refuse(); }
int64_t ModelOperators::scratch_bytes(const ExpertLinearForward&) const { refuse(); }
int64_t ModelOperators::scratch_bytes(const ExpertLinearBackward&) const { refuse(); }

}  // namespace cbtm
