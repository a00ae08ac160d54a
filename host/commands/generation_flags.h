#pragma once

#include "cbtm/ensemble/session.h"
#include "commands/command_line.h"

namespace cbtm {

/// --max-new-tokens, sampling and stopping; the caller sets eos_ids.
GenerationOptions generation_options(const CommandLine& line);

/// Prompts as ids: --prompt-ids, --prompt, else standard input. At a terminal without a prompt: empty (then ask).
std::vector<std::vector<int32_t>> read_prompts(const CommandLine& line, const Tokenizer* tokenizer);
bool asks_at_terminal(const CommandLine& line);

/// Prints the text of one prompt as it comes. Of several prompts nothing is printed before print_texts.
std::function<void(size_t, const std::string&)> text_printer(size_t prompts);
/// What text_printer has not printed: of one prompt the end of the line, of several a line each. Without a tokenizer
/// the ids.
void print_texts(const std::vector<Generated>& results, const Tokenizer* tokenizer);

/// After all that could be written has been: throws Error if a prompt has ended with an error, naming the first.
void check_finished(const std::vector<Generated>& results);

/// {"ids", "text", "finish"} of the new tokens.
Json generation_json(const std::vector<Generated>& results);

/// A JSON file of token ids: [[...], ...], or one list, or {"ids": ...}.
std::vector<std::vector<int32_t>> read_id_lists(const std::filesystem::path& path);

}  // namespace cbtm
