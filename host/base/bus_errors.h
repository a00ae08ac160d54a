#pragma once

#include <cstddef>
#include <string>

namespace cbtm {

/// Files that are mapped now, so that a page of theirs that cannot be read (the file became shorter, the disk failed)
/// ends the process with a line that names the file, not with SIGBUS alone. Any other SIGBUS keeps its effect.
/// Safe to call from several threads.
void remember_mapping(const void* begin, size_t bytes, const std::string& name);
void forget_mapping(const void* begin);

}  // namespace cbtm
