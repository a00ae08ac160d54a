// cbtm fewshot: files it writes, what it refuses; scripts/tasks/convert.

#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <map>
#include <sstream>

#include "cbtm/base/json.h"
#include "tests/commands/tiny_run.h"

namespace cbtm {
namespace {

const std::filesystem::path kEnsemble = std::filesystem::path(CBTM_TEST_DATA) / "ensemble";
const std::string kTokenizer = (std::filesystem::path(CBTM_TEST_DATA) / "tokenizer/opt-tiny").string();

void write_task(const std::filesystem::path& directory) {
  write_json_file(directory / "task.json", {{"name", "small"},
                                            {"labels", {"king", "machine of war"}},
                                            {"suffix", " It is"},
                                            {"separator", "\n\n"},
                                            {"shots", 2},
                                            {"seeds", {1, 2, 3}},
                                            {"max_length", 100},
                                            {"train", "train.jsonl"},
                                            {"test", "test.jsonl"}});
  std::ofstream train(directory / "train.jsonl"), test(directory / "test.jsonl");
  for (int i = 0; i < 5; ++i) train << Json{{"input", "text " + std::to_string(i)}, {"label", i % 2}}.dump() << "\n";
  for (int i = 0; i < 3; ++i) test << Json{{"input", "The " + std::to_string(i)}, {"label", "king"}}.dump() << "\n";
}

std::vector<std::string> few_shot(const std::vector<std::string>& more) {
  std::vector<std::string> words = {"fewshot", "--task", "task.json", "--tokenizer", kTokenizer, "--threads", "1"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

std::vector<std::string> of_experts(const std::vector<std::string>& more) {
  std::vector<std::string> words =
      few_shot({"--experts", (kEnsemble / "experts").string(), "--router-directory", (kEnsemble / "router").string()});
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

TEST_CASE("fewshot: accuracies follow from the details' scores, and one expert alone is top-1 where it is nearest") {
  const TemporaryDirectory directory;
  write_task(directory.path());
  const Outcome outcome = succeed(
      run_cbtm(of_experts({"--topk", "1,all", "--json", "out.json", "--details", "all.jsonl"}), directory.path()));
  CHECK(outcome.output.find("top-4") != std::string::npos);
  const Json result = read_json_file(directory / "out.json");
  REQUIRE(result["systems"].size() == 2);
  CHECK(result["demonstrations"].size() == 3);
  std::istringstream lines(file_contents(directory / "all.jsonl"));
  std::vector<std::vector<int>> right(2, std::vector<int>(3));
  int number = 0;
  Json first;
  for (std::string line; std::getline(lines, line); ++number) {
    const Json one = Json::parse(line);
    if (number == 0) first = one;
    CHECK(one["few_shot_line"] == number % 3);
    CHECK(one["seed"] == number / 3 + 1);
    for (size_t s = 0; s < 2; ++s) {
      const Json& lm = one["scores"][s]["lm"];
      right[s][static_cast<size_t>(number / 3)] += lm[0] >= lm[1] ? 1 : 0;
    }
  }
  CHECK(number == 9);
  for (size_t s = 0; s < 2; ++s)
    for (size_t q = 0; q < 3; ++q)
      CHECK(result["systems"][s]["lm"]["accuracy"][q].get<double>() == doctest::Approx(right[s][q] / 3.0));
  // The nearest expert by itself.
  size_t nearest = 0;
  for (size_t j = 0; j < 4; ++j)
    if (first["weights"][0][j] == 1) nearest = j;
  succeed(run_cbtm(few_shot({"--model", (kEnsemble / "experts" / ("00" + std::to_string(nearest))).string(),
                             "--details", "one.jsonl", "--seeds", "1", "--test-lines", "1"}),
                   directory.path()));
  const Json alone = Json::parse(file_contents(directory / "one.jsonl"));
  for (size_t y = 0; y < 2; ++y)
    CHECK(alone["scores"][0]["lm"][y].get<double>() ==
          doctest::Approx(first["scores"][0]["lm"][y].get<double>()).epsilon(1e-5));
}

TEST_CASE("fewshot: what is refused, in one line and before any work") {
  const TemporaryDirectory directory;
  write_task(directory.path());
  std::ofstream(directory / "mine.txt") << "mine\n";
  const auto refused = [&](std::vector<std::string> words, int code, const char* expected) {
    words.push_back("--quiet");
    check_error(run_cbtm(words, directory.path()), code, expected);
  };
  const std::string model = (kEnsemble / "experts/000").string();
  refused(few_shot({}), 2, "give one of --model DIR and --experts DIR");
  refused(few_shot({"--model", model, "--topk", "2"}), 2, "--topk does nothing with --model");
  refused(of_experts({"--mix", "words"}), 2, "use label or token");
  refused(few_shot({"--model", model, "--shots", "6"}), 2, "--shots");
  refused(few_shot({"--model", model, "--seeds", "4"}), 2, "--seeds");
  refused(few_shot({"--model", model, "--details", "mine.txt"}), 1, "holds no details of cbtm fewshot");
  CHECK(file_contents(directory / "mine.txt") == "mine\n");
  std::ofstream(directory / "test.jsonl") << "{\"input\": \"a\", \"label\": 9}\n";
  refused(few_shot({"--model", model}), 1, "test.jsonl: line 1");
}

TEST_CASE("scripts/tasks/convert makes task files of the public distributions, and refuses others in one line") {
  const TemporaryDirectory directory;
  const auto convert = [&](const std::string& task, const std::string& out) {
    return run_program({CBTM_SOURCE "/scripts/tasks/convert", task, "--from", ".", "--out", out}, directory.path());
  };
  const auto first_line = [&](const std::string& file) {
    std::ifstream lines(directory / file);
    std::string line;
    std::getline(lines, line);
    return Json::parse(line);
  };
  for (const char* name : {"train.csv", "test.csv"})
    std::ofstream(directory / name) << "\"2\",\"A \"\"title\"\"\",\"and text\"\n\"1\",\"b\",\"c\"\n";
  for (const char* task : {"agnews", "dbpedia", "amazon"}) {
    succeed(convert(task, task));
    CHECK(first_line(std::string(task) + "/test.jsonl") == Json{{"input", "A \"title\" and text"}, {"label", 1}});
  }
  for (const char* name : {"train.tsv", "dev.tsv"}) std::ofstream(directory / name) << "sentence\tlabel\na film \t1\n";
  succeed(convert("sst2", "sst2"));
  CHECK(first_line("sst2/train.jsonl") == Json{{"input", "a film"}, {"label", 1}});
  {
    std::ofstream file(directory / "Sentences_AllAgree.txt", std::ios::binary);
    for (int i = 0; i < 8; ++i)
      file << "Sales of \xE4 rose @ 5 % .@" << (i % 2 == 0 ? "positive" : "neutral") << "\r\n";
  }
  succeed(convert("phrasebank", "phrasebank"));
  CHECK(first_line("phrasebank/test.jsonl") == Json{{"input", "Sales of \u00e4 rose @ 5 % ."}, {"label", 1}});
  for (const char* name : {"train", "val"}) {
    std::ofstream(directory / (std::string(name) + "_text.txt")) << "a tweet\u2028of two lines\nanother\n";
    std::ofstream(directory / (std::string(name) + "_labels.txt")) << "1\n0\n";
  }
  succeed(convert("offensive", "offensive"));
  CHECK(first_line("offensive/train.jsonl")["label"] == 1);
  // cbtm reads what was made.
  check_error(run_cbtm({"fewshot", "--quiet", "--task", "offensive/task.json", "--model",
                        (kEnsemble / "experts/000").string(), "--tokenizer", kTokenizer},
                       directory.path()),
              1, "has only 2 lines");
  std::ofstream(directory / "val_labels.txt") << "1\n";
  std::ofstream(directory / "test.csv") << "3,x\n";
  for (const auto& [task, expected] :
       {std::pair{"offensive", "has 1 lines"}, {"amazon", "row 1 does not begin with a class from 1 to 2"}}) {
    const Outcome outcome = convert(task, "bad");
    CHECK(outcome.exit_code == 1);
    CHECK(outcome.errors.find(expected) != std::string::npos);
    CHECK(std::count(outcome.errors.begin(), outcome.errors.end(), '\n') == 1);
    CHECK(!std::filesystem::exists(directory / "bad"));
    CHECK(!std::filesystem::exists(directory / "bad.partial"));
  }
  CHECK(convert("sst2", "sst2").errors.find("is there already") != std::string::npos);
}

TEST_CASE("scripts/tasks/from-corpus makes six tasks, the same every time, and refuses what is no such corpus") {
  const TemporaryDirectory directory;
  const char* const words[] = {"oven", "flour", "comet", "orbit", "ledger", "tariff", "basil", "galaxy"};
  std::ofstream corpus(directory / "corpus.jsonl");
  for (const char* source : {"manual-german", "manual-french", "cpp-source"})
    for (int document = 0; document < 40; ++document) {
      std::string text;
      for (int word = 0; word < 90; ++word)
        text += std::string(words[(document * 7 + word * word) % 8]) + std::to_string(document) + " ";
      corpus << Json{{"id", std::string(source) + "/" + std::to_string(document)}, {"text", text}, {"source", source}}
                    .dump()
             << "\n";
    }
  corpus.close();
  const auto make = [&](const std::string& out, const std::vector<std::string>& more = {}) {
    std::vector<std::string> command = {CBTM_SOURCE "/scripts/tasks/from-corpus", "--corpus", "corpus.jsonl", "--out",
                                        out};
    command.insert(command.end(), more.begin(), more.end());
    return run_program(command, directory.path());
  };
  succeed(make("tasks", {"--test-lines", "12"}));
  succeed(make("again", {"--test-lines", "12"}));
  for (const char* name : {"source", "language", "kind", "continuation", "pair", "order"}) {
    CAPTURE(name);
    const std::filesystem::path task = directory.path() / "tasks" / name;
    for (const char* file : {"task.json", "train.jsonl", "test.jsonl"})
      CHECK(file_contents(task / file) == file_contents(directory.path() / "again" / name / file));
    const Json json = read_json_file(task / "task.json");
    CHECK(json["seeds"] == Json({13, 100, 21, 42, 87}));
    std::map<std::string, int> lines;
    std::ifstream test(task / "test.jsonl");
    for (std::string line; std::getline(test, line);) ++lines[Json::parse(line)["label"]];
    CHECK(lines.size() == json["labels"].size());
    for (const auto& [label, count] : lines) CHECK(count == lines.begin()->second);  // as many of each
  }
  const Outcome again = make("tasks");
  CHECK(again.exit_code == 1);
  CHECK(again.errors.find("is there already") != std::string::npos);
  std::ofstream(directory / "corpus.jsonl") << "{\"id\": \"a\", \"text\": \"b\"}\n";
  const Outcome damaged = make("other");
  CHECK(damaged.exit_code == 1);
  CHECK(damaged.errors.find("corpus.jsonl: line 1 is no object with id, text and source") != std::string::npos);
  CHECK(damaged.errors.find("Traceback") == std::string::npos);
}

}  // namespace
}  // namespace cbtm
