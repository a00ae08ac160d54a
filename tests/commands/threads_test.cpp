// A whole run with any number of threads: the same files, the same numbers, the same text, bit for bit.

#include <doctest/doctest.h>

#include <algorithm>
#include <fstream>
#include <map>

#include "tests/commands/process.h"
#include "tests/commands/tiny_run.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;

/// What holds times, paths or the command line itself, or is a hash over them.
void forget_times(Json& json) {
  if (json.is_array())
    for (Json& entry : json) forget_times(entry);
  if (!json.is_object()) return;
  for (const char* key :
       {"seconds", "training_seconds", "tokens_per_second", "fraction_of_peak", "command", "commands", "card_hash",
        "threads", "date", "finished", "started", "peak_bytes", "device", "memory", "computed_on"})
    json.erase(key);
  for (Json& entry : json) forget_times(entry);
}

/// The files of a run by their names, without what tells of its times.
std::map<std::string, std::string> contents(const fs::path& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    const std::string name = fs::relative(entry.path(), directory).string();
    if (!entry.is_regular_file() || name.ends_with("run.json") || name == "corpus-hashes.json" ||
        name.ends_with(".html"))
      continue;
    std::string text = file_contents(entry.path());
    if (name.ends_with(".json") && !name.ends_with("vocab.json")) {
      Json json = Json::parse(text);
      forget_times(json);
      text = json.dump();
    } else if (name.ends_with("metrics.jsonl")) {
      std::istringstream lines(text);
      text.clear();
      for (std::string line; std::getline(lines, line);) {
        Json json = Json::parse(line);
        forget_times(json);
        text += json.dump() + "\n";
      }
    }
    files[name] = text;
  }
  return files;
}

TEST_SUITE_BEGIN("end_to_end");

TEST_CASE("one thread or eight: a run's files, its evaluation and what it generates are bitwise the same") {
  const TemporaryDirectory directory;
  std::ofstream(directory / "corpus.jsonl") << tiny_corpus(150);
  const auto started = [&](std::vector<std::string> words, int threads) {
    words.insert(words.end(), {"--threads", std::to_string(threads)});
    return succeed(run_cbtm(words, directory.path()));
  };
  std::map<std::string, std::string> expected;
  std::vector<std::string> expected_texts;
  for (const int threads : {1, 2, 3, 5, 8}) {
    CAPTURE(threads);
    const std::string run = "run";  // named in what it writes
    fs::remove_all(directory / run);
    started({"run", "--corpus", "corpus.jsonl", "--k", "3", "--dimensions", "8", "--vocab-size", "384", "--preset",
             "nano", "--sequence", "64", "--batch-tokens", "768", "--steps", "4", "--out", run},
            threads);
    const std::map<std::string, std::string> files = contents(directory / run);
    std::vector<std::string> texts;
    for (const char* weights : {"f32", "bf16", "int8", "int4"})
      texts.push_back(started({"ensemble", "--experts", run + "/experts", "--prompt", "comet orbit planet",
                               "--max-new-tokens", "9", "--seed", "5", "--weights", weights},
                              threads)
                          .output);
    started({"ensemble", "evaluate", "--experts", run + "/experts", "--corpus", "corpus.jsonl", "--matrix", "--json",
             run + ".json"},
            threads);
    Json evaluation = read_json_file(directory / (run + ".json"));
    forget_times(evaluation);
    texts.push_back(evaluation.dump());
    if (threads == 1) {
      expected = files;
      expected_texts = texts;
      CHECK(files.size() > 30);
      continue;
    }
    CHECK(texts == expected_texts);
    REQUIRE(files.size() == expected.size());
    for (const auto& [name, text] : files) {
      CAPTURE(name);
      CHECK((expected.contains(name) && text == expected[name]));
    }
  }
}

TEST_SUITE_END();

}  // namespace
}  // namespace cbtm
