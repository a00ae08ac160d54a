#pragma once

#include <cstdint>
#include <cxxopts.hpp>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cbtm/base/json.h"
#include "commands/flag_table.h"

namespace cbtm {

/// The flags that most commands have: --threads, --seed, --json FILE, --quiet, --device, --profile.
struct CommonFlags {
  int threads = 1;
  uint64_t seed = 1234;
  std::optional<std::filesystem::path> json;  ///< where the machine-readable result goes
  bool quiet = false;
  std::string device = "auto";
  std::string profile;  ///< phases for a profiler, or empty
};

/// The flags of one command: the rows of the flag table that apply to it, read with cxxopts, and what cxxopts lacks:
/// lists of values after one flag (--corpus A B C), "did you mean", examples in the help, a usage Error instead of its
/// own exceptions, and a usage Error for a flag that does nothing for the command.
///
///   CommandLine line("cluster", "find the domains of a corpus", {"cbtm cluster --corpus data/ --k 8"});
///   if (!line.parse(argc, argv)) return kExitSuccess;  // --help was printed
///   const auto paths = line.get<std::vector<std::string>>("corpus");
class CommandLine {
 public:
  CommandLine(std::string name, std::string purpose, std::vector<std::string> examples);

  /// False if --help was asked for and printed. Applies --threads, --quiet and --no-verify. Throws a usage Error.
  bool parse(int argc, char** argv);

  /// The first argument of a command that has several actions, as typed or by default: "encode".
  std::string action() const { return text("what"); }
  /// True if the command, or the action that was asked for, has this flag.
  bool takes(std::string_view flag) const;
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
  /// The path if the flag was given, else "".
  std::filesystem::path path_or_none(const std::string& flag) const { return given(flag) ? path(flag) : ""; }

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
  /// The words for cxxopts, lists joined and one-letter flags made short ones. Throws a usage Error.
  std::vector<std::string> prepared_words(int argc, char** argv) const;
  void check_value_follows(const std::string& name, std::string_view next) const;
  std::string joined_list(const std::string& name, int argc, char** argv, int& place) const;
  [[noreturn]] void refuse_unknown(const std::vector<std::string>& words, const std::string& message) const;
  void check_flags_apply() const;
  void apply_common();
  CommandSet action_set() const;
  std::string raw_value(const std::string& flag) const;
  [[noreturn]] void missing(const std::string& flag) const;

  std::string name_;
  std::string purpose_;
  std::vector<std::string> examples_;
  std::vector<Flag> flags_;
  mutable cxxopts::Options options_;
  std::optional<cxxopts::ParseResult> result_;
  CommonFlags common_;
  std::string as_typed_;
};

}  // namespace cbtm
