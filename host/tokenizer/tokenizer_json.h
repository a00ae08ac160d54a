#pragma once

#include <filesystem>

#include "tokenizer/vocabulary.h"

namespace cbtm {

/// Reads a tokenizer.json, the file of the `tokenizers` library, but not its added tokens. Throws Error naming the
/// first component that is not understood. Returns the file, for read_added_tokens.
Json read_tokenizer_json(const std::filesystem::path& path, Vocabulary& vocabulary, Tokenizer::Data& data);
void read_added_tokens(const JsonReader& file, AddedTokenList& added);

/// The tokenizer as the text of a tokenizer.json.
std::string tokenizer_json_text(const Tokenizer::Data& data);

/// An added token of a file: its content and flags.
AddedToken added_token_of(const JsonReader& token);

}  // namespace cbtm
