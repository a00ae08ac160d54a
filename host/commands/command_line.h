#pragma once

#include <algorithm>
#include <cstdint>
#include <cxxopts.hpp>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cbtm/base/json.h"

namespace cbtm {

/// The flags every command has: --threads, --seed, --json FILE, --quiet, --no-verify, --device, --profile, --help.
struct CommonFlags {
  int threads = 1;
  uint64_t seed = 1234;
  std::optional<std::filesystem::path> json;  ///< where the machine-readable result goes
  bool quiet = false;
  std::string device = "auto";
  std::string profile;  ///< phases for a profiler, or empty
};

/// One command's flags over cxxopts, with what cxxopts lacks: lists of values after one flag (--corpus A B C),
/// "did you mean", examples in the help, a usage Error instead of its own exceptions.
///
///   CommandLine line("cluster", "find the domains of a corpus", {"cbtm cluster --corpus data/ --k 8"});
///   line.group("Input")("corpus", "files or directories", list_flag(), "PATH...");
///   line.group("Input")("text-field", "the field that holds the text", text_flag("text"));
///   if (!line.parse(argc, argv)) return kExitSuccess;  // --help was printed
///   const auto paths = line.get<std::vector<std::string>>("corpus");
class CommandLine {
 public:
  CommandLine(std::string name, std::string purpose, std::vector<std::string> examples);

  cxxopts::OptionAdder group(const std::string& title) {
    if (std::find(groups_.begin(), groups_.end(), title) == groups_.end()) groups_.push_back(title);
    return options_.add_options(title);
  }
  /// Names flags that take values as positional arguments too, in order ("inspect PATH").
  void positional(std::vector<std::string> flags, const std::string& help);

  /// False if --help was asked for and printed. Applies --threads and --quiet. Throws a usage Error.
  bool parse(int argc, char** argv);

  /// True if the flag was given on the command line (not just defaulted).
  bool given(const std::string& flag) const { return parsed().count(flag) != 0; }
  /// True if it was given or has a default.
  bool has(const std::string& flag) const;
  template <typename Value>
  Value get(const std::string& flag) const {
    if (!has(flag)) missing(flag);
    return parsed()[flag].as<Value>();
  }
  /// get<Value>, checked to lie in [low, high]; a usage Error names flag and bounds.
  int64_t integer(const std::string& flag, int64_t low, int64_t high = INT64_MAX) const;
  double number(const std::string& flag, double low, double high) const;
  std::string text(const std::string& flag) const { return get<std::string>(flag); }
  std::filesystem::path path(const std::string& flag) const { return get<std::string>(flag); }

  const CommonFlags& common() const { return common_; }
  /// The command line as typed, for run.json.
  const std::string& as_typed() const { return as_typed_; }
  /// Throws a usage Error if the file that `flag` names is also what another flag of this command line names: a result
  /// that would replace its own input.
  void check_no_input(const std::filesystem::path& output, const std::string& flag) const;
  /// Writes `result` to the --json file, if one was asked for.
  void write_json(const Json& result) const;

 private:
  const cxxopts::ParseResult& parsed() const;
  std::string raw_value(const std::string& flag) const;
  [[noreturn]] void missing(const std::string& flag) const;
  void print_help() const;
  std::vector<std::string> flag_names() const;

  std::string name_;
  std::string purpose_;
  std::vector<std::string> examples_;
  std::vector<std::string> groups_;  ///< titles in the order of their declaration
  std::string positional_help_;
  std::vector<std::string> positional_;
  mutable cxxopts::Options options_;
  std::optional<cxxopts::ParseResult> result_;
  CommonFlags common_;
  std::string as_typed_;
};

/// Shorthands for cxxopts values: required or optional without default, or with one. Numbers are read whole: "0,5",
/// "5%" and "1e-3x" are usage Errors that name the flag. Whole numbers may be written 20000, 1e6, 1.5M or 2G (K, M, G,
/// T are powers of 1000), as long as the value is whole.
std::shared_ptr<cxxopts::Value> text_flag();
std::shared_ptr<cxxopts::Value> text_flag(const std::string& default_value);
std::shared_ptr<cxxopts::Value> list_flag();
std::shared_ptr<cxxopts::Value> integer_flag();
std::shared_ptr<cxxopts::Value> integer_flag(int64_t default_value);
std::shared_ptr<cxxopts::Value> seed_flag(uint64_t default_value);
std::shared_ptr<cxxopts::Value> number_flag();
std::shared_ptr<cxxopts::Value> number_flag(const std::string& default_value);
std::shared_ptr<cxxopts::Value> switch_flag();

/// The candidate nearest to `word` by edit distance, or "" if none is near.
std::string nearest_word(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace cbtm
