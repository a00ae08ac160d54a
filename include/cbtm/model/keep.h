#pragma once

#include <cstdint>

namespace cbtm {

/// What stays of a forward pass for the backward pass; the rest is computed again there. It changes memory and speed,
/// not a bit of the result.
enum class Keep : uint8_t {
  everything,
  all_but_feed_forward,  ///< without the activations between a feed-forward's two matrices
  block_inputs,          ///< of each block its input alone
  nothing,               ///< there is no backward pass
};

}  // namespace cbtm
