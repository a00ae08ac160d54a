#pragma once

#include <string>
#include <string_view>

namespace cbtm {

/// What a file is that often lies where another is expected, with what to do: "it is a Git LFS pointer, not the file
/// itself; fetch it with git lfs pull". Looks at the first bytes only: Git LFS pointer, HTML page, empty file, UTF-16
/// text, compressed files, nothing but zeros. Empty text if it is none of them.
std::string foreign_content(std::string_view bytes);

/// Text from a file as a message may hold it: on one line, control characters and ill-formed bytes escaped, cut to
/// about `length_max` bytes.
std::string shown_text(std::string_view text, size_t length_max = 80);

}  // namespace cbtm
