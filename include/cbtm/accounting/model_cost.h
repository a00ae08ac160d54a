#pragma once

#include <cstdint>

#include "cbtm/device/tensor.h"
#include "cbtm/model/spec.h"

namespace cbtm {

// FLOPs and bytes of one model, from its description alone (docs/accounting.md, 'One model'). A multiply-add counts as
// two FLOPs. Norms, activations, softmax and lookups are not counted, and neither is what a backward pass recomputes.

/// Parameters of the model, biases and norms included.
int64_t total_parameters(const ModelSpec& spec);
/// Of those, the ones that take part when one token is computed: of a mixture of experts its router and two experts.
int64_t active_parameters(const ModelSpec& spec);

/// Forward FLOPs of a token that attends to `context` tokens, itself included: 2 M + 4 W context, where M are the
/// parameters that a token is multiplied with and W is the width of attention, summed over the blocks.
double forward_flops(const ModelSpec& spec, double context);
/// FLOPs of a token in training on sequences of `sequence_length` tokens, whose mean context is half of that: 3 times
/// the forward pass.
double training_flops(const ModelSpec& spec, int64_t sequence_length);

/// Bytes of a float32 checkpoint's tensors.
int64_t checkpoint_bytes(const ModelSpec& spec);
/// Bytes of a saved training state: float32 weights and AdamW's two moments.
int64_t training_state_bytes(const ModelSpec& spec);
/// Bytes of keys and values of one cached token.
int64_t key_value_bytes(const ModelSpec& spec, DType dtype);

/// Bytes that each of `devices`, which train one model together, sends in an optimizer step when collectives run as
/// rings: float32 gradients of matrices are reduced and scattered, the new working weights of type `dtype` are
/// gathered, biases' and norms' gradients are reduced for all (host/model/training_parameters.h). 0 for one device.
int64_t exchange_bytes(const ModelSpec& spec, DType dtype, int64_t devices);

}  // namespace cbtm
