#pragma once

#include <string>
#include <string_view>

namespace cbtm {

/// The two fields of a JSON line that matter.
struct JsonLineFields {
  bool has_text = false;
  std::string text;
  std::string id;  ///< "" if there is none; numbers as they are written
};

/// Reads one JSON object and takes `text_field` (a string) and "id" (a string or a number) from its top level; all else
/// is checked and skipped. Of repeated keys the last counts. Returns "" or what is wrong with the line.
std::string parse_json_line(std::string_view line, std::string_view text_field, JsonLineFields& fields);

}  // namespace cbtm
