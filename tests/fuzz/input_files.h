#pragma once

#include <filesystem>
#include <functional>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/temporary_directory.h"

namespace cbtm::fuzz {

/// An input that stands for several files: before each file a line "=== NAME". What precedes the first such line is
/// dropped. The newline before a "===" belongs to the line, not to the file.
struct Part {
  std::string name;
  std::string contents;
};
std::vector<Part> split_parts(std::string_view input);
std::string join_parts(const std::vector<Part>& parts);

/// A directory in memory that holds the files of one input; removed with it.
class InputFiles {
 public:
  InputFiles() = default;
  /// The parts of `input` whose names are among `names`, in folders where a name has any. Other names are passed over:
  /// an input never chooses where it is written. Of two parts with the same name the last counts.
  InputFiles(std::string_view input, std::initializer_list<std::string_view> names);

  void write(const std::string& name, std::string_view contents) const;
  const std::filesystem::path& path() const { return directory_.path(); }
  std::filesystem::path operator/(const std::string& name) const { return directory_ / name; }

 private:
  TemporaryDirectory directory_;
};

/// The contents of the first part of that name, or `otherwise`.
std::string part_or(std::string_view input, std::string_view name, std::string_view otherwise);

}  // namespace cbtm::fuzz
