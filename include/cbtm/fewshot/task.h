#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace cbtm {

struct FewShotExample {
  std::string input;
  int64_t label = 0;  ///< its place in FewShotTask::labels
};

/// A classification task (docs/few-shot.md, 'Task files').
struct FewShotTask {
  std::string name;
  std::vector<std::string> labels;
  std::string suffix;     ///< follows every input
  std::string separator;  ///< between demonstrations, and before the input that is asked about
  int64_t shots = 0;      ///< demonstrations in a prompt
  std::vector<uint64_t> seeds;
  bool draws_demonstrations = true;  ///< with each seed; else the first lines of train for every seed
  int64_t max_length = 0;            ///< tokens of prompt and label at most
  std::vector<FewShotExample> train, test;
};

/// Reads task.json and the two JSON lines files that it names, from its directory. At most `test_lines_max` lines of
/// the test file (0: all). Throws Error that names file, and key or line.
FewShotTask read_few_shot_task(const std::filesystem::path& path, int64_t test_lines_max = 0);

/// Which lines of train the prompts of a seed demonstrate, in order (docs/few-shot.md, 'Demonstrations').
std::vector<int64_t> demonstrations(const FewShotTask& task, uint64_t seed);

/// The demonstrations, then `input` with the suffix.
std::string few_shot_prompt(const FewShotTask& task, const std::vector<int64_t>& shown, const std::string& input);

}  // namespace cbtm
