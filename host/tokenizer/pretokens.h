#pragma once

#include <cstddef>
#include <string_view>

namespace cbtm {

/// End of the piece that starts at `place` (< text.size()) when `text`, valid UTF-8, is cut by GPT-2's expression
///   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
/// (tokenizer reference, section 1). A hand-written scanner; the tests hold it to the expression itself.
size_t pretoken_end(std::string_view text, size_t place);

}  // namespace cbtm
