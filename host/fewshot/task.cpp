#include "cbtm/fewshot/task.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <numeric>
#include <set>

#include "cbtm/base/error.h"
#include "cbtm/base/foreign_file.h"
#include "cbtm/base/json.h"
#include "cbtm/base/philox.h"
#include "cbtm/base/utf8.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;

constexpr const char* kRemedy = "correct the task file (docs/few-shot.md)";
constexpr int64_t kLineBytesMax = int64_t{16} << 20;
constexpr int64_t kLinesMax = 10'000'000;
constexpr size_t kLabelsMax = 10'000;

/// A line of a JSON lines file, without its end. False at the end of the file.
bool next_line(std::ifstream& file, const fs::path& path, int64_t number, std::string& line) {
  line.clear();
  for (int c = file.get(); c != std::ifstream::traits_type::eof(); c = file.get()) {
    if (c == '\n') return true;
    line += static_cast<char>(c);
    if (static_cast<int64_t>(line.size()) > kLineBytesMax)
      fail("{}: line {} is longer than {} bytes; is this the right file?", path.string(), number, kLineBytesMax);
  }
  return !line.empty();
}

std::vector<FewShotExample> read_examples(const fs::path& path, const std::vector<std::string>& labels,
                                          int64_t lines_max) {
  std::ifstream file(path, std::ios::binary);
  if (!file || fs::is_directory(path)) fail("{}: cannot be read; the task file names it", path.string());
  std::vector<FewShotExample> examples;
  std::string line;
  for (int64_t number = 1;
       (lines_max == 0 || static_cast<int64_t>(examples.size()) < lines_max) && next_line(file, path, number, line);
       ++number) {
    if (number > kLinesMax) fail("{}: has more than {} lines; is this the right file?", path.string(), kLinesMax);
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string where = fmt::format("{}: line {}", path.string(), number);
    const Json json = parse_json(line, where);
    const JsonReader read(json, where, kRemedy);
    FewShotExample example{.input = read.text("input")};
    const JsonReader label = read.at("label");
    const auto count = static_cast<int64_t>(labels.size());
    if (label.json().is_string()) {
      const auto found = std::find(labels.begin(), labels.end(), label.as_text());
      if (found == labels.end())
        label.refuse(fmt::format("is '{}', which is none of the task's {} labels", shown_text(label.as_text()), count));
      example.label = found - labels.begin();
    } else {
      example.label = label.as_integer(0, count - 1);
    }
    examples.push_back(std::move(example));
  }
  return examples;
}

fs::path file_beside(const JsonReader& read, const char* key, const fs::path& task) {
  const std::string name = read.text(key);
  const fs::path path(name);
  if (name.empty() || path.is_absolute() || std::find(path.begin(), path.end(), "..") != path.end())
    read.at(key).refuse(fmt::format("is '{}', but must name a file in the task's directory", shown_text(name)));
  return task.parent_path() / path;
}

std::vector<uint64_t> read_seeds(const JsonReader& list) {
  std::vector<uint64_t> seeds;
  for (size_t i = 0; i < list.size(); ++i) {
    const Json& seed = list.item(i).json();
    if (!seed.is_number_unsigned()) list.item(i).refuse("must be a whole number from 0 to 2^64 - 1");
    seeds.push_back(seed.get<uint64_t>());
  }
  if (seeds.empty()) list.refuse("is empty; without demonstrations one seed is enough");
  if (std::set(seeds.begin(), seeds.end()).size() != seeds.size()) list.refuse("names a seed twice");
  return seeds;
}

}  // namespace

FewShotTask read_few_shot_task(const fs::path& path, int64_t test_lines_max) {
  const Json json = read_json_file(path);
  const JsonReader read(json, path.string(), kRemedy);
  FewShotTask task;
  task.name = read.text("name");
  task.labels = read.texts("labels");
  if (task.labels.size() < 2 || task.labels.size() > kLabelsMax)
    read.at("labels").refuse(fmt::format("has {} labels, but must have 2 to {}", task.labels.size(), kLabelsMax));
  if (std::set(task.labels.begin(), task.labels.end()).size() != task.labels.size())
    read.at("labels").refuse("names a label twice");
  if (std::find(task.labels.begin(), task.labels.end(), "") != task.labels.end())
    read.at("labels").refuse("has an empty label");
  task.suffix = read.text("suffix");
  task.separator = read.text("separator");
  task.shots = read.integer("shots", 0, 10'000);
  task.seeds = read_seeds(read.list("seeds"));
  const std::string shown = read.text_or("demonstrations", "drawn");
  if (shown != "drawn" && shown != "first")
    read.at("demonstrations").refuse(fmt::format("is '{}', but must be drawn or first", shown_text(shown)));
  task.draws_demonstrations = shown == "drawn";
  task.max_length = read.integer("max_length", 2, 1 << 24);
  const fs::path train = file_beside(read, "train", path), test = file_beside(read, "test", path);
  task.train = read_examples(train, task.labels, 0);
  task.test = read_examples(test, task.labels, test_lines_max);
  if (task.test.empty()) fail("{}: holds no line to score", test.string());
  if (task.shots > static_cast<int64_t>(task.train.size()))
    fail("{}: 'shots' is {}, but {} has only {} lines; {}", path.string(), task.shots, train.string(),
         task.train.size(), kRemedy);
  return task;
}

std::vector<int64_t> demonstrations(const FewShotTask& task, uint64_t seed) {
  const auto lines = static_cast<int64_t>(task.train.size());
  std::vector<int64_t> order(static_cast<size_t>(lines));
  std::iota(order.begin(), order.end(), 0);
  for (int64_t i = 0; task.draws_demonstrations && i < task.shots; ++i) {
    const uint64_t random = philox(PhiloxCounter{{static_cast<uint32_t>(i), 0, 0, 0}}, seed).word[0];
    const int64_t other = i + static_cast<int64_t>((random * static_cast<uint64_t>(lines - i)) >> 32);
    std::swap(order[static_cast<size_t>(i)], order[static_cast<size_t>(other)]);
  }
  order.resize(static_cast<size_t>(task.shots));
  return order;
}

std::string few_shot_prompt(const FewShotTask& task, const std::vector<int64_t>& shown, const std::string& input) {
  std::string prompt;
  for (const int64_t line : shown) {
    const FewShotExample& example = task.train[static_cast<size_t>(line)];
    prompt += example.input + task.suffix + " " + task.labels[static_cast<size_t>(example.label)] + task.separator;
  }
  return prompt + input + task.suffix;
}

}  // namespace cbtm
