// Lines of JSON lines files; the input is the line.

#include "corpus/json_line.h"

#include "tests/fuzz/target.h"

namespace cbtm::fuzz {
namespace {

void read(std::string_view input) {
  JsonLineFields fields;
  parse_json_line(input, "text", fields, "source");
}

const Registration kRegistration{{"json_line", read}};

}  // namespace
}  // namespace cbtm::fuzz
