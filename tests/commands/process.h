#pragma once

#include <filesystem>
#include <initializer_list>
#include <string>
#include <vector>

namespace cbtm {

/// How a started program ended.
struct Outcome {
  int exit_code = -1;  ///< 128 + signal if a signal ended it
  std::string output;
  std::string errors;
};

/// Starts ./cbtm with these arguments in `directory`, feeds it `input`, waits for its end.
Outcome run_cbtm(const std::vector<std::string>& arguments, const std::filesystem::path& directory = ".",
                 const std::string& input = "");

/// The same for any program (found on PATH).
Outcome run_program(const std::vector<std::string>& command, const std::filesystem::path& directory = ".",
                    const std::string& input = "");

}  // namespace cbtm
