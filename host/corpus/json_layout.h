#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string_view>

namespace cbtm {

/// How the documents lie in a file.
enum class FileLayout : uint8_t {
  text,        ///< the file is one document
  json_lines,  ///< one object per line
  json_array,  ///< one array of objects
  json_value   ///< one JSON value, which is a document if it is an object with the text field, and else plain text
};

/// Bytes from a file's beginning that decide its layout.
inline constexpr size_t kLayoutBytes = size_t{1} << 18;

/// Decides by content, helped by the name (docs/formats.md, 'Corpus, as read').
///
/// name       of the file, with its .gz or .zst; "-" is JSON lines or an array.
/// beginning  the unpacked text, up to kLayoutBytes of it; `whole` if the file holds no more.
FileLayout file_layout(const std::filesystem::path& name, std::string_view beginning, bool whole,
                       std::string_view text_field);

}  // namespace cbtm
