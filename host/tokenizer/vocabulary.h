#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "cbtm/base/json.h"
#include "tokenizer/tokenizer_data.h"

namespace cbtm {

/// The tokens of a vocabulary by their text in its file, while files are read.
using Vocabulary = std::unordered_map<std::string, int32_t>;

/// Reads an object from token to id into `data` (bytes, spelling, byte_ids) and `vocabulary`.
void read_vocabulary(const JsonReader& tokens, Tokenizer::Data& data, Vocabulary& vocabulary);

/// Appends a merge of two tokens. `where` begins the message if they or what they make is not in the vocabulary.
void add_merge(const std::string& left, const std::string& right, const std::string& where,
               const Vocabulary& vocabulary, Tokenizer::Data& data);
/// The same of "left right".
void add_merge_line(std::string_view line, const std::string& where, const Vocabulary& vocabulary,
                    Tokenizer::Data& data);

/// Reads merges.txt.
void read_merges_file(const std::filesystem::path& path, const Vocabulary& vocabulary, Tokenizer::Data& data);

/// A token as the file of its vocabulary writes it.
std::string token_text(const Tokenizer::Data& data, size_t id);
/// The same of all, by id; "" where the vocabulary has none.
std::vector<std::string> token_texts(const Tokenizer::Data& data);
/// What read_vocabulary reads, in the order of ids.
nlohmann::ordered_json vocabulary_json(const Tokenizer::Data& data);

/// Adds added tokens as the `tokenizers` library does: one that the vocabulary has keeps its id there, others get the
/// next free one, whatever a file says; where that differs, finish() warns.
class AddedTokenList {
 public:
  AddedTokenList(const Vocabulary& vocabulary, Tokenizer::Data& data) : vocabulary_(vocabulary), data_(data) {}

  /// Adds `token`, or replaces the one of the same content. token.id is what the file says, or -1; `where` names it.
  void add(const AddedToken& token, const std::string& where);
  /// The one of that content, or nullptr.
  const AddedToken* find(const std::string& content) const;
  void finish() const;

 private:
  const Vocabulary& vocabulary_;
  Tokenizer::Data& data_;
  std::unordered_map<std::string, size_t> index_;
  int32_t highest_ = -1;
  std::string first_difference_;
};

}  // namespace cbtm
