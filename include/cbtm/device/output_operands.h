#pragma once

#include <span>

#include "cbtm/device/tensor.h"
#include "cbtm/device/token_filter.h"

namespace cbtm {

/// Output layer and cross-entropy in blocks of rows, so that never all logits exist:
/// loss[r] = -log softmax(hidden[r] tableᵀ)[targets[r]] (natural log), 0 where the target is -100.
/// With gradients: hidden_gradient = d (gradient_scale * Σ loss) / d hidden, table_gradient accumulates likewise.
struct OutputLoss {
  ConstTensorView hidden;   ///< [rows, width]
  ConstTensorView table;    ///< [vocab_size, width]
  ConstTensorView targets;  ///< int32 [1, rows]
  TensorView losses;        ///< float32 [1, rows]
  TensorView loss_sum;      ///< float64 [1, 1], accumulates in a fixed order; or empty
  float gradient_scale = 1;
  TensorView hidden_gradient;         ///< [rows, width], or empty: forward only
  TensorView table_gradient;          ///< float32 [vocab_size, width], or empty
  ConstTensorView table_scales = {};  ///< float32 [1, vocab_size] of an int8 table (forward only); else empty
};

/// How the experts' next-token distributions p_j become one.
enum class MixtureKind : uint8_t {
  sum,      ///< log Σ_j weight_j p_j; the weights sum to 1
  product,  ///< Σ_j weight_j log p_j, less the logarithm of the sum of its exponentials; weights of any sign
};

/// log of the mixture of the experts' next-token distributions p_j = softmax(logits_j[rows[s][j]]), in float32; experts
/// of weight 0 are not read.
struct MixtureLogProbabilities {
  std::span<const ConstTensorView> logits;  ///< one view per expert, [its rows, vocab_size]
  ConstTensorView weights;                  ///< float32 [sequences, expert count], as `kind` wants them
  TensorView log_probabilities;             ///< float32 [sequences, vocab_size]
  /// int32 [sequences, expert count]: the row of the expert's logits that belongs to the sequence. Empty: row s belongs
  /// to sequence s.
  ConstTensorView rows;
  MixtureKind kind = MixtureKind::sum;
};

/// Chooses a token for each of some sequences from the mixture of the experts that it uses, without the whole
/// distributions leaving the device: log-probabilities as of MixtureLogProbabilities, then the first maximum if greedy,
/// else what `filter` leaves of them, drawn from (token_at). Equal to the host's functions but for rounding. Where
/// these throw since the scores are not finite, the token is -1 (fail_scores_not_finite).
struct SampleMixture {
  std::span<const ConstTensorView> logits;  ///< an expert [its rows, vocab_size]
  ConstTensorView rows;      ///< int32 [sequences, expert count]: the sequence's row of the expert's logits
  ConstTensorView weights;   ///< float32 [sequences, expert count]; where 0 the row is not read
  ConstTensorView uniforms;  ///< float64 [1, sequences], each in [0, 1); not read if greedy
  bool greedy = false;
  TokenFilter filter;
  TensorView tokens;  ///< int32 [1, sequences]
  MixtureKind kind = MixtureKind::sum;
};

}  // namespace cbtm
