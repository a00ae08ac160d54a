#pragma once

#include <cstdint>

#include "cbtm/model/families.h"

namespace cbtm {

/// A small OPT model's shape for tests, named as in config.json.
struct OptShape {
  int64_t vocab_size = 64;
  int64_t hidden_size = 16;
  int64_t num_hidden_layers = 2;
  int64_t num_attention_heads = 2;
  int64_t ffn_dim = 32;
  int64_t max_position_embeddings = 48;
  int64_t word_embed_proj_dim = 16;
  bool do_layer_norm_before = true;

  operator ModelSpec() const {  // NOLINT: a shape stands for its spec
    return parse_model_spec({{"model_type", "opt"},
                             {"vocab_size", vocab_size},
                             {"hidden_size", hidden_size},
                             {"num_hidden_layers", num_hidden_layers},
                             {"num_attention_heads", num_attention_heads},
                             {"ffn_dim", ffn_dim},
                             {"max_position_embeddings", max_position_embeddings},
                             {"word_embed_proj_dim", word_embed_proj_dim},
                             {"do_layer_norm_before", do_layer_norm_before}},
                            "a test's model");
  }
};

}  // namespace cbtm
