#pragma once

#include "cbtm/device/moe_operands.h"
#include "runtime/context.h"

namespace cbtm::cuda {

/// The choices of a chunk of tokens are counted together (route_tokens.cu).
inline constexpr int64_t kRouteChunkRows = 128;

// The router of a mixture of experts (cbtm/device/moe_operands.h). A fixed number of launches for a shape, nothing read
// by the host, and every sum in a fixed order.

/// logits = input routerᵀ.
void router_logits(Context& context, const RouteTokens& arguments);

void route_tokens(Context& context, const RouteTokens& arguments);
void route_tokens_backward(Context& context, const RouteTokensBackward& arguments);

/// Of Context::workspace.
int64_t scratch_bytes(const Context& context, const RouteTokens& arguments);
int64_t scratch_bytes(const Context& context, const RouteTokensBackward& arguments);

}  // namespace cbtm::cuda
