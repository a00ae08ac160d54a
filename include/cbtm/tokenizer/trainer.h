#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cbtm/tokenizer/tokenizer.h"

namespace cbtm {

struct TokenizerTrainingOptions {
  int64_t vocab_size = 50265;  ///< special tokens, 256 bytes, then merges; the corpus may run out before
  int64_t min_frequency = 2;   ///< pairs seen less often are not joined
  /// Ids from 0 on. OPT's; the names `</s>` and `<pad>` take their roles.
  std::vector<std::string> special_tokens = {"<s>", "<pad>", "</s>", "<unk>"};
};

/// Learns byte-level BPE merges (docs/tokenizer.md, 'Learning merges'). Memory grows with the number of different
/// pretokens, not with the corpus.
class TokenizerTrainer {
 public:
  TokenizerTrainer();
  ~TokenizerTrainer();
  TokenizerTrainer(const TokenizerTrainer&) = delete;

  /// Counts the pretokens of texts (valid UTF-8), on all threads.
  void add(const std::vector<std::string>& texts);
  /// The joins in order of their counts; among equals the smallest left id, then the smallest right id. Throws a usage
  /// Error if vocab_size has no room for bytes and special tokens.
  Tokenizer train(const TokenizerTrainingOptions& options) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace cbtm
