#include "tests/fuzz/input_files.h"

#include <algorithm>
#include <fstream>

namespace cbtm::fuzz {
namespace {

constexpr std::string_view kHeader = "=== ";

/// Where the next header line begins, at or after `from`; the end of the input if there is none.
size_t next_header(std::string_view input, size_t from) {
  for (size_t place = input.find(kHeader, from); place != std::string_view::npos;
       place = input.find(kHeader, place + 1))
    if (place == 0 || input[place - 1] == '\n') return place;
  return input.size();
}

}  // namespace

std::vector<Part> split_parts(std::string_view input) {
  std::vector<Part> parts;
  for (size_t header = next_header(input, 0); header < input.size();) {
    const size_t name_begin = header + kHeader.size();
    const size_t name_end = std::min(input.find('\n', name_begin), input.size());
    const size_t begin = std::min(name_end + 1, input.size());
    header = next_header(input, begin);
    const size_t end = header < input.size() && header > begin ? header - 1 : header;
    parts.push_back(
        {std::string(input.substr(name_begin, name_end - name_begin)), std::string(input.substr(begin, end - begin))});
  }
  return parts;
}

std::string join_parts(const std::vector<Part>& parts) {
  std::string input;
  for (const Part& part : parts) {
    if (!input.empty()) input += '\n';
    input.append(kHeader).append(part.name).append("\n").append(part.contents);
  }
  return input;
}

InputFiles::InputFiles(std::string_view input, std::initializer_list<std::string_view> names) {
  for (const Part& part : split_parts(input))
    if (std::find(names.begin(), names.end(), part.name) != names.end()) write(part.name, part.contents);
}

void InputFiles::write(const std::string& name, std::string_view contents) const {
  const std::filesystem::path path = directory_ / name;
  std::filesystem::create_directories(path.parent_path());
  std::ofstream file(path, std::ios::binary);
  file.write(contents.data(), static_cast<std::streamsize>(contents.size()));
  if (!file.flush()) throw std::runtime_error(path.string() + ": the test's own file cannot be written");
}

std::string part_or(std::string_view input, std::string_view name, std::string_view otherwise) {
  for (const Part& part : split_parts(input))
    if (part.name == name) return part.contents;
  return std::string(otherwise);
}

}  // namespace cbtm::fuzz
