#pragma once

#include <fstream>
#include <string>
#include <vector>

#include "tests/commands/tiny_run.h"

namespace cbtm {

using Words = std::vector<std::string>;

inline Words operator+(Words words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

inline const Words kCluster = {"cluster",      "--corpus", "corpus.jsonl", "--k", "3",
                               "--dimensions", "8",        "--vocab-size", "384"};

/// What the commands start from: a corpus of three subjects, the shape of a very small model, token ids.
inline void write_workplace(const std::filesystem::path& directory) {
  std::ofstream(directory / "corpus.jsonl") << tiny_corpus(20);
  std::ofstream(directory / "ids.json") << "[[2, 300, 301], [7, 8, 9]]";
  std::ofstream(directory / "model.json")
      << Json{{"model_type", "opt"},           {"vocab_size", 384},         {"hidden_size", 32},
              {"num_hidden_layers", 2},        {"num_attention_heads", 2},  {"ffn_dim", 64},
              {"max_position_embeddings", 64}, {"word_embed_proj_dim", 32}, {"do_layer_norm_before", true},
              {"activation_function", "relu"}};
}

}  // namespace cbtm
