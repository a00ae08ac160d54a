#pragma once

#include <cstdint>

#include "cbtm/device/dropout.h"
#include "cbtm/device/linear_operands.h"
#include "cbtm/device/tensor.h"

namespace cbtm {

// Operators of a mixture of experts with two experts per token (docs/method.md, 'Mixture of experts'). All sizes that
// depend on the tokens stay on the device: buffers have a fixed number of rows, and `offsets` says how many of them
// are used. So a pass can be recorded and run again.
//
// The order of the calls:
//   forward   route_tokens, gather_expert_rows, expert_linear_forward (in, with the activation),
//             expert_linear_forward (out), combine_expert_rows
//   backward  combine_expert_rows_backward, expert_linear_backward (out, then in), scatter_expert_rows,
//             route_tokens_backward

inline constexpr int64_t kExpertsPerToken = 2;
inline constexpr int64_t kMaxExperts = 256;

/// Which expert works on which token. A *choice* is a pair (token, j): j = 0 is the token's first expert, j = 1 its
/// second. A kept choice has a *sorted row*: kept choices are numbered by expert, then by slot, so that the rows of
/// expert e are offsets[e] .. offsets[e + 1].
struct ExpertRouting {
  TensorView logits;      ///< float32 [rows, experts]: input routerᵀ
  TensorView choices;     ///< int32 [rows, 2]: the expert of each choice
  TensorView weights;     ///< float32 [rows, 2]: of each choice, after dropping; 0 for a dropped one
  TensorView sorted_row;  ///< int32 [rows, 2]: of each choice; -1 for a dropped one
  TensorView offsets;     ///< int32 [1, experts + 1]; the last one is the number of kept choices, at most 2 * rows
  /// int32 [1, 2 * rows]: the choice of each sorted row, as 2 * token + j; not written from offsets[experts] on.
  TensorView sources;
  TensorView first_counts;  ///< int32 [1, experts]: tokens whose first choice it is, dropped or not

  int64_t rows() const { return logits.rows; }
  int64_t experts() const { return logits.columns; }
};

/// Columns of RouteTokens::statistics. Of each expert: tokens with it as their first choice, tokens with it as their
/// second choice (both before dropping), and kept choices. Then of the whole layer: sums over tokens.
struct RoutingStatistics {
  static constexpr int64_t first_choices(int64_t expert) { return expert; }
  static constexpr int64_t second_choices(int64_t experts, int64_t expert) { return experts + expert; }
  static constexpr int64_t kept(int64_t experts, int64_t expert) { return 2 * experts + expert; }
  static constexpr int64_t dropped_first(int64_t experts) { return 3 * experts; }
  static constexpr int64_t dropped_second(int64_t experts) { return 3 * experts + 1; }
  static constexpr int64_t dropped_both(int64_t experts) { return 3 * experts + 2; }  ///< tokens without an expert
  static constexpr int64_t entropy(int64_t experts) { return 3 * experts + 3; }       ///< sum of -Σ_e g_e ln g_e
  static constexpr int64_t balance(int64_t experts) { return 3 * experts + 4; }       ///< balance loss * rows
  static constexpr int64_t columns(int64_t experts) { return 3 * experts + 5; }
};

/// Chooses two experts for each token, of at least one, and gives every kept choice its sorted row.
///
///   logits = input routerᵀ, both converted to float32 first; each row's sums are in one order for all experts and do
///            not depend on other rows. g = softmax(logits) of a row.
///   e1 = argmax_e logits, e2 = argmax over e != e1; of equal logits the lower index. Whatever the logits are (a NaN
///        counts as less than any number), e1 and e2 are two different valid experts.
///   slot of (s, 0): the number of earlier tokens s' < s with e1(s') = e1(s)
///   slot of (s, 1): the number of all tokens with e1 = e2(s), plus that of earlier ones with e2 = e2(s)
///   A choice is kept if its slot < capacity; capacity 0 keeps all.
///   sorted row = offsets[expert] + slot: a full expert has exactly `capacity` rows.
///   weights: both kept: w1 = 1 / (1 + exp(logit2 - logit1)), w2 = 1 - w1; one kept: exactly 1 and 0; none: 0 and 0.
///   balance loss = experts * Σ_e m_e f_e; m_e: mean of g_e over the rows; f_e = first_counts[e] / rows.
///
/// `statistics` is added to, in a fixed order.
struct RouteTokens {
  ConstTensorView input;   ///< [rows, width]
  ConstTensorView router;  ///< [experts, width], of float32, bfloat16 or float16
  int64_t capacity = 0;    ///< choices that an expert takes at most; 0: all
  ExpertRouting routing;   ///< written, but for sources that are not used
  TensorView statistics;   ///< float64 [1, RoutingStatistics::columns], or empty
};

/// From the gradients of the choices' weights and from the balance loss:
///   d logits[s][e1(s)] += w1 w2 (weight_gradients[s][0] - weight_gradients[s][1]), and minus that for e2(s)
///                         (0 unless both choices are kept: then one of the weights is 0)
///   d logits[s][e]     += balance_scale * experts * g[s][e] * (f_e - Σ_j f_j g[s][j])
///   input_gradient += d logits router;  router_gradient += d logitsᵀ input.
/// For a loss of which each token's cross-entropy has the gradient scale a, and coefficient * rows * balance loss is
/// added to the sum over tokens: balance_scale = coefficient * a.
struct RouteTokensBackward {
  ConstTensorView input;             ///< as in the forward pass
  ConstTensorView router;            ///< as in the forward pass
  ExpertRouting routing;             ///< as written by the forward pass; read
  ConstTensorView weight_gradients;  ///< float32 [rows, 2], from combine_expert_rows_backward
  float balance_scale = 0;
  TensorView logit_gradients;  ///< float32 [rows, experts]: written, for the two products
  TensorView input_gradient;   ///< [rows, width], accumulates
  TensorView router_gradient;  ///< float32 [experts, width], accumulates
};

/// sorted[p] = source[sources[p] / 2] for p < offsets[experts]; other rows keep what they hold.
struct GatherExpertRows {
  ConstTensorView source;  ///< [rows, width]
  ExpertRouting routing;   ///< read
  TensorView sorted;       ///< [2 * rows, width] of source's type
};

/// out[s] = (or +=, if accumulate) sorted[sorted_row[s][0]] + sorted[sorted_row[s][1]], added in float32 in this order
/// and rounded once; a dropped choice adds nothing. The backward pass of the gathering.
struct ScatterExpertRows {
  ConstTensorView sorted;  ///< [2 * rows, width]
  ExpertRouting routing;   ///< read
  TensorView out;          ///< [rows, width]
  bool accumulate = false;
};

/// The linear layer of each expert over its sorted rows: for p in offsets[e] .. offsets[e + 1],
///   output[p] = activation(input[p] weight_eᵀ + bias_e),  weight_e: rows e * out .. (e + 1) * out of `weight`.
/// Weight types, scales and accumulation as in LinearForward, of a matrix of experts * out rows. Rows from
/// offsets[experts] on are neither read nor written. With RowSums::decode and RowSums::prompt a row has the same bits
/// however many rows its expert has; on every device, for which tokens share an expert is not the caller's choice.
struct ExpertLinearForward {
  ConstTensorView input;    ///< [2 * rows, in]
  ConstTensorView offsets;  ///< ExpertRouting::offsets
  ConstTensorView weight;   ///< [experts * out, in], or int4
  ConstTensorView bias;     ///< [1, experts * out], or empty
  Activation activation = Activation::none;
  TensorView output;      ///< [2 * rows, out]
  TensorView saved = {};  ///< u8 [2 * rows, saved_activation_columns], as LinearForward::saved; or empty
  ConstTensorView weight_scales = {};
  RowSums row_sums = RowSums::any;

  int64_t experts() const { return offsets.columns - 1; }
  int64_t out() const { return output.columns; }
};

/// Of each expert e over its sorted rows, as LinearBackward (without accumulating into the input's gradient):
///   weight_gradient_e += output_gradientᵀ input;  bias_gradient_e += column sums;
///   input_gradient = output_gradient weight_e, times the derivative of the activation that `input` is the output of.
/// The gradients of an expert without rows stay as they are. Sums over rows are in a fixed order.
struct ExpertLinearBackward {
  ConstTensorView input;            ///< [2 * rows, in]
  ConstTensorView offsets;          ///< ExpertRouting::offsets
  ConstTensorView weight;           ///< [experts * out, in]
  ConstTensorView output_gradient;  ///< [2 * rows, out]
  TensorView input_gradient;        ///< [2 * rows, in], other memory than `input`; or empty
  Activation input_activation = Activation::none;
  ConstTensorView input_saved = {};  ///< what the forward pass of that activation kept
  TensorView weight_gradient;        ///< float32 [experts * out, in], accumulates; or empty
  TensorView bias_gradient;          ///< float32 [1, experts * out], accumulates; or empty

  int64_t experts() const { return offsets.columns - 1; }
  int64_t out() const { return output_gradient.columns; }
};

/// out[s] = Σ over kept choices j of weights[s][j] * drop_j(sorted[sorted_row[s][j]]), in float32 with j = 0 first and
/// rounded once; 0 for a token without a kept choice. drop_j is the dropout of element (s, column) with site + j: a
/// token has one mask per choice, drawn by the token's number and not by the sorted row's.
struct CombineExpertRows {
  ConstTensorView sorted;  ///< [2 * rows, width]: the experts' outputs
  ExpertRouting routing;   ///< read
  Dropout dropout;
  TensorView out;  ///< [rows, width]
};

///   weight_gradients[s][j] = Σ_c out_gradient[s][c] * drop_j(sorted[sorted_row[s][j]])[c], 0 for a dropped choice;
///   sorted_gradient[sorted_row[s][j]] = weights[s][j] * out_gradient[s] * mask of drop_j / (1 - p).
struct CombineExpertRowsBackward {
  ConstTensorView sorted;        ///< as in the forward pass
  ConstTensorView out_gradient;  ///< [rows, width]
  ExpertRouting routing;         ///< read
  Dropout dropout;
  TensorView sorted_gradient;   ///< [2 * rows, width]; may be `sorted` itself
  TensorView weight_gradients;  ///< float32 [rows, 2]
};

}  // namespace cbtm
