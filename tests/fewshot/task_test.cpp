#include "cbtm/fewshot/task.h"

#include <doctest/doctest.h>

#include <fstream>

#include "cbtm/base/error.h"
#include "cbtm/base/json.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

Json small_task() {
  return {{"name", "t"},     {"labels", {"a", "b c"}}, {"suffix", " is"},        {"separator", "\n\n"}, {"shots", 2},
          {"seeds", {1, 7}}, {"max_length", 100},      {"train", "train.jsonl"}, {"test", "test.jsonl"}};
}

void write(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

std::filesystem::path write_task(const std::filesystem::path& directory, const Json& task) {
  write(directory / "task.json", task.dump());
  return directory / "task.json";
}

constexpr const char* kTrain =
    "{\"input\": \"x\", \"label\": 0}\n\n{\"input\": \"y\", \"label\": \"b c\", \"more\": [1]}\n"
    "{\"input\": \" z \", \"label\": 1}";

TEST_CASE("a task: labels by name and by place, blank lines, other keys") {
  const TemporaryDirectory directory;
  write(directory / "train.jsonl", kTrain);
  write(directory / "test.jsonl", "{\"input\": \"q\", \"label\": 1}\r\n{\"input\": \"r\", \"label\": 0}\n");
  const FewShotTask task = read_few_shot_task(write_task(directory.path(), small_task()));
  REQUIRE(task.train.size() == 3);
  CHECK(task.train[1].label == 1);
  CHECK(task.train[2].input == " z ");
  CHECK(task.test.size() == 2);
  CHECK(task.seeds == std::vector<uint64_t>{1, 7});
  CHECK(read_few_shot_task(directory / "task.json", 1).test.size() == 1);
  CHECK(few_shot_prompt(task, {2, 0}, "q") == " z  is b c\n\nx is a\n\nq is");
  CHECK(few_shot_prompt(task, {}, "q") == "q is");
}

TEST_CASE("demonstrations: drawn without repetition, the same for a seed, all orders alike") {
  FewShotTask task{.shots = 3};
  task.train.resize(5);
  std::vector<int64_t> first_drawn(5);
  for (uint64_t seed = 0; seed < 5000; ++seed) {
    const std::vector<int64_t> drawn = demonstrations(task, seed);
    REQUIRE(drawn.size() == 3);
    CHECK((drawn[0] != drawn[1] && drawn[0] != drawn[2] && drawn[1] != drawn[2]));
    CHECK(demonstrations(task, seed) == drawn);
    ++first_drawn[static_cast<size_t>(drawn[0])];
  }
  // 1000 expected of each, with a standard deviation of 28: five of them.
  for (const int64_t count : first_drawn) CHECK(std::abs(count - 1000) < 140);
  CHECK(demonstrations(task, 1) != demonstrations(task, uint64_t{1} << 32));
  task.draws_demonstrations = false;
  CHECK(demonstrations(task, 9) == std::vector<int64_t>{0, 1, 2});
}

TEST_CASE("task files that cannot be are refused in one line that names the place") {
  const TemporaryDirectory directory;
  write(directory / "train.jsonl", kTrain);
  write(directory / "test.jsonl", "{\"input\": \"q\", \"label\": 1}\n");
  const auto refused = [&](const char* key, const Json& value, const char* expected) {
    CAPTURE(key);
    Json task = small_task();
    if (value.is_discarded())
      task.erase(key);
    else
      task[key] = value;
    const std::filesystem::path path = write_task(directory.path(), task);
    CHECK_THROWS_WITH_AS(read_few_shot_task(path), doctest::Contains(expected), Error);
  };
  const Json missing = Json(Json::value_t::discarded);
  for (const char* key : {"name", "labels", "suffix", "separator", "shots", "seeds", "max_length", "train", "test"})
    refused(key, missing, key);
  refused("labels", {"a"}, "has 1 labels");
  refused("labels", {"a", "a"}, "names a label twice");
  refused("labels", {"a", ""}, "has an empty label");
  refused("labels", {"a", 3}, "'labels[1]'");
  refused("shots", 4, "has only 3 lines");
  refused("shots", -1, "'shots'");
  refused("seeds", Json::array(), "is empty");
  refused("seeds", {1, 1}, "names a seed twice");
  refused("seeds", {-1}, "'seeds[0]'");
  refused("seeds", {1.5}, "'seeds[0]'");
  refused("demonstrations", "all", "must be drawn or first");
  refused("max_length", 0, "'max_length'");
  refused("train", "../train.jsonl", "must name a file in the task's directory");
  refused("train", "/etc/passwd", "must name a file in the task's directory");
  refused("test", "none.jsonl", "none.jsonl");
  const std::filesystem::path path = write_task(directory.path(), small_task());
  for (const auto& [line, expected] : std::vector<std::pair<const char*, const char*>>{
           {"{\"input\": \"q\", \"label\": 2}", "line 1"},
           {"{\"input\": \"q\", \"label\": \"c\"}", "is 'c', which is none of the task's 2 labels"},
           {"{\"input\": \"q\"}", "'label'"},
           {"{\"input\": 3, \"label\": 0}", "'input'"},
           {"[1]", "line 1"},
           {"{\"input\": \"q\", ", "line 1"},
           {"{\"input\": \"\xff\", \"label\": 0}", "line 1"},
           {"", "holds no line to score"}}) {
    CAPTURE(line);
    write(directory / "test.jsonl", line);
    CHECK_THROWS_WITH_AS(read_few_shot_task(path), doctest::Contains(expected), Error);
  }
}

}  // namespace
}  // namespace cbtm
