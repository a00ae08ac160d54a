#pragma once

#include <filesystem>

#include "tokenizer/vocabulary.h"

namespace cbtm {

/// Reads tokenizer_config.json, special_tokens_map.json and added_tokens.json of `directory`, as far as they are there,
/// on top of a vocabulary and of tokenizer.json's added tokens: more added tokens, the ids of bos, eos and pad, what is
/// put around a text, add_prefix_space. `has_pipeline`: there was a tokenizer.json, which decides the last two.
void read_special_tokens(const std::filesystem::path& directory, bool has_pipeline, const Vocabulary& vocabulary,
                         AddedTokenList& added, Tokenizer::Data& data);

}  // namespace cbtm
