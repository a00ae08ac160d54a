#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace cbtm {

/// The fields of a JSON line that matter.
struct JsonLineFields {
  bool has_text = false;
  std::string text;
  std::string id;      ///< "" if there is none; numbers as they are written
  std::string domain;  ///< of the domain field, likewise
};

/// Reads one JSON object and takes `text_field` (a string) and "id" (a string or a number) from its top level; all else
/// is checked and skipped. Of repeated keys the last counts. Returns "" or what is wrong with the line, for people; it
/// begins with "not UTF-8" if that is it. `domain_field` (a string or a number), if it is given, is taken too; it may
/// be "id".
std::string parse_json_line(std::string_view line, std::string_view text_field, JsonLineFields& fields,
                            std::string_view domain_field = {});

/// What a piece of text is, as JSON.
enum class JsonShape : uint8_t {
  object,     ///< one whole object, blanks around it
  beginning,  ///< the beginning of an object, which only ends too early
  other
};
/// `has_text`: it has (as far as it goes) a text field that is a string.
JsonShape json_shape(std::string_view text, std::string_view text_field, bool& has_text);

}  // namespace cbtm
