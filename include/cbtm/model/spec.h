#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cbtm/base/json.h"
#include "cbtm/device/activation.h"

namespace cbtm {

/// A layer norm over hidden_size values: (x - mean) / sqrt(variance + epsilon), times a weight and plus a bias if
/// affine.
struct NormSpec {
  bool affine = true;
  double epsilon = 1e-5;

  friend bool operator==(const NormSpec&, const NormSpec&) = default;
};

/// Where a block's norms stand: before attention and feed-forward, or after the sum with the residual.
enum class NormPlace : uint8_t { before, after };

/// Causal attention of all heads over learned absolute positions.
struct AttentionSpec {
  int64_t heads = 0;
  int64_t head_dim = 0;
  bool biases = true;  ///< of the query, key, value and output projections

  /// Columns of queries, and of keys and values.
  int64_t width() const { return heads * head_dim; }

  friend bool operator==(const AttentionSpec&, const AttentionSpec&) = default;
};

/// out(activation(in(x))): two matrices. With `experts`, a mixture of so many of these: a router, a matrix without
/// bias, chooses two for each token and weighs their outputs (cbtm/device/moe_operands.h). A training adds
/// `balance_weight` times the router's balance loss to its loss.
struct FeedForwardSpec {
  int64_t width = 0;  ///< between the two
  Activation activation = Activation::relu;
  bool biases = true;
  int64_t experts = 0;  ///< 0: no mixture; else from kExpertsPerToken to kMaxExperts
  double balance_weight = 0;

  bool is_mixture() const { return experts > 0; }

  friend bool operator==(const FeedForwardSpec&, const FeedForwardSpec&) = default;
};

/// x + attention(norm(x)), then the same with the feed-forward; or, with the norms after, norm(x + attention(x)).
struct BlockSpec {
  NormPlace norm_place = NormPlace::before;
  NormSpec attention_norm, feed_forward_norm;
  AttentionSpec attention;
  FeedForwardSpec feed_forward;

  friend bool operator==(const BlockSpec&, const BlockSpec&) = default;
};

/// Token table [vocab_size, width] and table of learned positions [position_offset + max_length, hidden_size].
struct EmbeddingSpec {
  int64_t vocab_size = 0;
  int64_t width = 0;            ///< where it is not hidden_size, projections lead to the blocks and back
  int64_t max_length = 0;       ///< tokens of the longest sequence
  int64_t position_offset = 0;  ///< row of the first position

  friend bool operator==(const EmbeddingSpec&, const EmbeddingSpec&) = default;
};

/// A language model as a description: what it computes and what it has parameters for (cbtm/model/parameter_layout.h).
/// model/families says how config.json and the tensors of a checkpoint map to it.
struct ModelSpec {
  std::string family;  ///< "opt", "opt_moe", "gpt2": model_type in config.json
  int64_t hidden_size = 0;
  EmbeddingSpec embedding;
  std::vector<BlockSpec> blocks;  ///< at least one; norm_place is the same in all
  std::optional<NormSpec> final_norm;
  bool tied_output = true;  ///< the output matrix is the token table

  int64_t pad_token_id = -1;  ///< -1: none
  int64_t bos_token_id = -1;
  std::vector<int64_t> eos_token_ids;  ///< generation ends at any of these

  double initial_deviation = 0.02;  ///< of weights from scratch
  /// What the family's config.json holds that changes no result, to be written again.
  Json family_settings = Json::object();

  int64_t layers() const { return static_cast<int64_t>(blocks.size()); }
  const BlockSpec& block(int64_t layer) const { return blocks[static_cast<size_t>(layer)]; }
  bool pre_norm() const { return blocks.front().norm_place == NormPlace::before; }
  bool has_projections() const { return embedding.width != hidden_size; }
  /// Columns of a token's keys (and of its values) in one layer's cache: the widest layer's.
  int64_t key_value_width() const;
  /// Columns between a feed-forward's two matrices: the widest layer's.
  int64_t feed_forward_width() const;

  /// Whether a feed-forward is a mixture of experts.
  bool has_mixtures() const;
  /// The layers whose feed-forward is one, ascending.
  std::vector<int64_t> mixture_layers() const;
  /// Experts of a mixture: of the layer that has most; 0 without any.
  int64_t experts() const;

  /// Parameters that are multiplied for every token: blocks, projections and the output matrix; of a mixture its router
  /// and two experts.
  int64_t matrix_parameter_count() const;
  /// Forward FLOPs of one token at mean context `sequence_length` / 2; training takes 3 times that (docs/numerics.md,
  /// 'FLOPs per token').
  double forward_flops_per_token(int64_t sequence_length) const;

  friend bool operator==(const ModelSpec&, const ModelSpec&) = default;
};

}  // namespace cbtm
