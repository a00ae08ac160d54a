#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace cbtm::fuzz {

/// A reader under test. `read` feeds it one input; returning and throwing Error are both right. Any other exception, a
/// failed assertion, a finding of a sanitizer, more than five seconds or more than 2 GB of memory is a finding.
struct Target {
  std::string name;
  void (*read)(std::string_view input);
  /// Makes checksums and lengths of a mutated input fit again, so that mutations reach what lies behind these checks.
  /// Null: nothing to mend.
  std::string (*repair)(std::string_view input) = nullptr;
};

/// All targets that are linked into this program.
std::vector<Target>& targets();

/// Makes a target known: `const Registration kRegistration{{"json_line", read}};` in its file.
struct Registration {
  explicit Registration(Target target);
};

/// Once per process, before the first input: one thread, no informative lines, temporary files in memory.
void prepare_process();

/// Calls target.read. Returns the message of the Error that it throws, or "". Prints the message of any other exception
/// and lets it pass.
std::string run(const Target& target, std::string_view input);

}  // namespace cbtm::fuzz
