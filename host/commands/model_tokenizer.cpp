#include "commands/model_tokenizer.h"

#include "cbtm/base/error.h"

namespace cbtm {

void check_tokenizer(const std::filesystem::path& model, const std::optional<ExpertCard>& card,
                     const Tokenizer& tokenizer) {
  if (!card || card->tokenizer_hash.empty() || card->tokenizer_hash == tokenizer.content_hash()) return;
  fail("{}: was trained with another tokenizer ({}) than the one given ({}); give its own with --tokenizer DIR",
       model.string(), card->tokenizer_hash, tokenizer.content_hash());
}

}  // namespace cbtm
