#pragma once

#include <string>
#include <string_view>

namespace cbtm {

/// Recognises a file of another kind than expected, and says what to do: "it is a Git LFS pointer, not the file itself;
/// fetch it with git lfs pull". Looks only at the first bytes. Known are: Git LFS pointers, HTML pages, empty files,
/// UTF-16 text, compressed files, and files of zeros. Returns "" for anything else.
std::string foreign_content(std::string_view bytes);

/// Text from a file in a form that fits into a message: one line, with control characters and ill-formed bytes escaped,
/// cut to about `length_max` bytes.
std::string shown_text(std::string_view text, size_t length_max = 80);

}  // namespace cbtm
