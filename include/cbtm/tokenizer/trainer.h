#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cbtm/tokenizer/tokenizer.h"

namespace cbtm {

struct TokenizerTrainingOptions {
  int64_t vocab_size = 50265;  ///< special tokens, 256 bytes, then merges; fewer if the corpus has no more pairs
  int64_t min_frequency = 2;   ///< rarer pairs are not joined
  /// The first ids; by default those of OPT. `</s>` and `<pad>` get their roles by these names.
  std::vector<std::string> special_tokens = {"<s>", "<pad>", "</s>", "<unk>"};
};

/// Learns byte-level BPE merges (docs/tokenizer.md, 'Learning merges'). Memory grows with the number of different
/// pieces, not with the corpus.
class TokenizerTrainer {
 public:
  TokenizerTrainer();
  ~TokenizerTrainer();
  TokenizerTrainer(const TokenizerTrainer&) = delete;

  /// Counts the pieces of texts (valid UTF-8), on all threads.
  void add(const std::vector<std::string>& texts);
  /// Learns the merges: the pair of the highest count first; of equals the one of the smallest left id, then of the
  /// smallest right id. Throws a usage Error if vocab_size has no room for the bytes and the special tokens.
  Tokenizer train(const TokenizerTrainingOptions& options) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace cbtm
