// The table of flags: what each command takes, what it refuses, and what its help says of both.

#include "commands/flag_table.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <set>

#include "cbtm/base/error.h"
#include "commands/commands.h"
#include "tests/commands/process.h"
#include "tests/commands/tiny_run.h"

namespace cbtm {
namespace {

/// Flag and alias names of the whole table.
std::set<std::string> all_names() {
  std::set<std::string> names;
  for (const Flag& flag : flag_table()) {
    names.emplace(flag.name);
    if (!flag.alias.empty()) names.emplace(flag.alias);
  }
  return names;
}

bool has_name(const Flag& flag, const std::string& name) { return flag.name == name || flag.alias == name; }

const Flag* row_of(const std::string& name, CommandSet set) {
  for (const Flag& flag : flag_table())
    if (has_name(flag, name) && (flag.commands & set) != 0) return &flag;
  return nullptr;
}

/// Calls the command in this process, and gives the usage Error that it throws; "" if it throws another or none.
std::string usage_error(std::vector<std::string> words) {
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  for (const Command& command : commands()) {
    if (command.name != words.front()) continue;
    try {
      command.run(static_cast<int>(arguments.size()), arguments.data());
    } catch (const Error& error) {
      return error.exit_code() == kExitUsage ? error.what() : "";
    }
  }
  return "";
}

std::vector<std::string> words_of(const CommandUse& use) {
  std::vector<std::string> words = {std::string(use.command)};
  if (!use.action.empty()) words.emplace_back(use.action);
  return words;
}

TEST_CASE("the table knows every command, and no command has two flags of one name") {
  for (const Command& command : commands()) {
    CAPTURE(command.name);
    CHECK(uses_of(command.name) != 0);
    std::set<std::string> names;
    for (const Flag& flag : flags_of(command.name)) {
      CHECK(names.emplace(flag.name).second);
      if (!flag.alias.empty()) CHECK(names.emplace(flag.alias).second);
    }
  }
}

TEST_CASE("a command refuses every flag of the table that does nothing for it, and says whose it is") {
  int refused = 0;
  for (const CommandUse& use : command_uses())
    for (const std::string& name : all_names()) {
      if (row_of(name, use.bit) != nullptr) continue;
      CAPTURE(use_name(use));
      CAPTURE(name);
      const bool toggle = row_of(name, ~CommandSet{0})->kind == FlagKind::toggle;
      const Flag* const own = row_of(name, uses_of(use.command));  // of another action of the command
      std::vector<std::string> words = words_of(use);
      words.push_back("--" + name);
      if (own != nullptr ? own->kind != FlagKind::toggle : !toggle) words.emplace_back("7");
      const std::string error = usage_error(words);
      CHECK(error.find("--" + name) != std::string::npos);
      CHECK(error.find("does nothing here, it is a flag of cbtm ") != std::string::npos);
      ++refused;
    }
  CHECK(refused > 500);
}

TEST_CASE("the help of a command is its rows: each flag once, with its value and default") {
  for (const Command& command : commands()) {
    CAPTURE(command.name);
    const std::string help = run_cbtm({command.name, "--help"}).output;
    for (const std::string& name : all_names()) {
      CAPTURE(name);
      const auto flags = flags_of(command.name);
      const auto row = std::find_if(flags.begin(), flags.end(),
                                    [&](const Flag& flag) { return flag.name == name && !flag.group.empty(); });
      const size_t place = help.find("\n  --" + name + " ");
      REQUIRE((place != std::string::npos) == (row != flags.end()));
      if (place == std::string::npos) continue;
      CHECK(help.find("\n  --" + name + " ", place + 1) == std::string::npos);
      const std::string line = help.substr(place + 1, help.find('\n', place + 1) - place - 1);
      CHECK(line.find(row->help) != std::string::npos);
      CHECK(line.find(row->value_name) != std::string::npos);
      if (row->default_value != nullptr && *row->default_value != '\0')
        CHECK(line.ends_with("(default " + std::string(row->default_value) + ")"));
    }
  }
  const std::string encode = run_cbtm({"tokenizer", "encode", "--help"}).output;
  CHECK(encode.find("--no-special") != std::string::npos);
  CHECK(encode.find("\n  --vocab-size") == std::string::npos);
}

TEST_CASE("the run directory is --run for every command that works in one; --out means it where it did") {
  const TinyRunCopy work;
  for (const char* flag : {"--run", "--out"}) {
    const Outcome outcome = run_cbtm(
        {"cluster", "--corpus", "corpus.jsonl", "--k", "3", "--dimensions", "8", "--vocab-size", "384", flag, "run"},
        work.path());
    CHECK(succeed(outcome).errors.find("cluster: done already, in run/shards") != std::string::npos);
  }
  for (const char* command : {"run", "cluster", "train_seed", "train_expert", "evaluate", "ensemble"})
    CHECK(run_cbtm({command, "--help"}).output.find("--run DIR") != std::string::npos);
  CHECK(run_cbtm({"run", "--help"}).output.find("--out") == std::string::npos);
}

TEST_CASE("commands may be written with hyphens") {
  CHECK(run_cbtm({"train-expert", "--help"}).output == run_cbtm({"train_expert", "--help"}).output);
  CHECK(run_cbtm({"train-seed", "--help"}).output == run_cbtm({"train_seed", "--help"}).output);
  check_error(run_cbtm({"train-exprt"}), kExitUsage, "did you mean 'train_expert'?");
}

TEST_CASE("types have one set of names; one that a command cannot use is refused with those that it can") {
  const TinyRunCopy work;
  const auto evaluate = [&](const std::string& type) {
    return run_cbtm({"evaluate", "--model", "run/seed", "--run", "run", "--threads", "1", "--json", type + ".json",
                     "--weights", type},
                    work.path());
  };
  succeed(evaluate("float32"));
  succeed(evaluate("f32"));
  Json new_name = read_json_file(work / "float32.json"), old_name = read_json_file(work / "f32.json");
  for (Json* result : {&new_name, &old_name}) result->erase("seconds");
  CHECK(new_name == old_name);
  check_error(evaluate("fp16"), kExitUsage,
              "--weights fp16: weights are not kept in it; use float32, bf16, int8 or int4");
  check_error(evaluate("float16"), kExitUsage, "--weights float16: unknown; use float32, bf16, int8 or int4");
  const auto train = [&](const std::string& type) {
    return run_cbtm(tiny_training({"train_expert", "--shard", "0"},
                                  {"--steps", "2", "--quiet", "--device", "cpu", "--precision", type}),
                    work.path());
  };
  check_error(train("int8"), kExitUsage,
              "--precision int8: no model is trained in it; use auto, float32, bf16 or fp16");
  check_error(train("bf16"), kExitUsage, "does not train in it; use float32");
  succeed(train("f32"));
  succeed(train("float32"));  // the same training
}

TEST_CASE("a flag that another one makes useless is refused") {
  const TinyRunCopy work;
  check_error(run_cbtm({"cluster", "--corpus", "corpus.jsonl", "--tokenizer", "run/tokenizer", "--vocab-size", "300"},
                       work.path()),
              kExitUsage, "--vocab-size does nothing");
  const std::vector<std::string> evaluate = {"evaluate", "--model", "run/seed", "--threads", "1"};
  const auto with = [&](const std::vector<std::string>& flags) {
    std::vector<std::string> words = evaluate;
    words.insert(words.end(), flags.begin(), flags.end());
    return run_cbtm(words, work.path());
  };
  check_error(with({"--corpus", "corpus.jsonl", "--split", "tune"}), kExitUsage, "--split");
  check_error(with({"--run", "run", "--keep-duplicates"}), kExitUsage,
              "--keep-duplicates does nothing without --corpus");
}

TEST_CASE("--memory bounds what is planned, in a benchmark as in a training") {
  const TinyRunCopy work;
  check_error(run_cbtm({"bench", "train", "--model", "run/seed", "--sequence", "32", "--micro-batch", "2", "--steps",
                        "1", "--threads", "1", "--quiet", "--memory", "4K"},
                       work.path()),
              kExitFailure, "--memory");
}

}  // namespace
}  // namespace cbtm
