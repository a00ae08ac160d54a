// Tokenizer files in all layouts that are read, then encoding a text with the result and decoding what came out. The
// part "text" is the text, if there is one.

#include "cbtm/tokenizer/tokenizer.h"

#include "cbtm/base/error.h"
#include "tests/fuzz/input_files.h"
#include "tests/fuzz/target.h"

namespace cbtm::fuzz {
namespace {

void use(const Tokenizer& tokenizer, const std::string& text) {
  for (const bool special_tokens : {false, true}) {
    const std::vector<int32_t> ids = tokenizer.encode(text, {.add_bos = true, .special_tokens = special_tokens});
    for (const int32_t id : ids)
      CBTM_ASSERT(id >= 0 && id < tokenizer.vocab_size(), "an embedding is looked up for every id");
    tokenizer.decode(ids, /*skip_special=*/special_tokens);
    StreamingDecoder decoder(tokenizer, special_tokens);
    for (const int32_t id : ids) decoder.push(id);
    decoder.finish();
  }
}

void read(std::string_view input) {
  const InputFiles files(input, {"vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer.json",
                                 "added_tokens.json", "tokenizer_config.json"});
  const Tokenizer tokenizer = Tokenizer::load(files.path());
  use(tokenizer, part_or(input, "text", "It's a tiny  text:\n</s>naïve 1234 \t<pad>, \xF0\x9F\x98\x80!"));
  std::filesystem::create_directory(files / "saved");
  tokenizer.save(files / "saved");
  CBTM_ASSERT(Tokenizer::load(files / "saved").content_hash() == tokenizer.content_hash(), "what is saved is the same");
}

const Registration kRegistration{{"tokenizer", read}};

}  // namespace
}  // namespace cbtm::fuzz
