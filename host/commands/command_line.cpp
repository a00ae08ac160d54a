#include "commands/command_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/content_hash.h"
#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/threads.h"
#include "cbtm/base/utf8.h"
#include "commands/command_help.h"
#include "commands/flag_values.h"
#include "commands/nearest_word.h"

namespace cbtm {
namespace {

/// True of a word that is a flag and not a value: "--name", "--name=value", "-k". "---" and "-5" are values.
bool is_flag(std::string_view word) {
  const auto letter = [&](size_t place) {
    return place < word.size() &&
           ((word[place] >= 'a' && word[place] <= 'z') || (word[place] >= 'A' && word[place] <= 'Z'));
  };
  if (word.starts_with("--")) return letter(2) || word == "--";
  return word.starts_with("-") && word.size() == 2 && letter(1);
}

/// "name" of "--name=value" and of "-n".
std::string bare_name(const std::string& word) {
  const size_t begin = std::min(word.find_first_not_of('-'), word.size());
  return word.substr(begin, word.find('=', begin) - begin);
}

bool has_name(const Flag& flag, std::string_view name) {
  return flag.name == name || (!flag.alias.empty() && flag.alias == name);
}

const Flag* find_flag(const std::vector<Flag>& flags, std::string_view name) {
  const auto found = std::find_if(flags.begin(), flags.end(), [&](const Flag& flag) { return has_name(flag, name); });
  return found == flags.end() ? nullptr : &*found;
}

/// All commands that have a flag of this name.
CommandSet commands_with(std::string_view name) {
  CommandSet set = 0;
  for (const Flag& flag : flag_table())
    if (has_name(flag, name)) set |= flag.commands;
  return set;
}

/// The flag whose value the wrong number is: cxxopts does not say.
std::string flag_before(const std::vector<std::string>& words, const std::string& value) {
  for (size_t i = 1; i < words.size(); ++i) {
    const std::string& word = words[i];
    const std::string name = word.substr(0, word.find('='));
    if (!word.starts_with("-")) continue;
    if (word == name + "=" + value || (word == name && i + 1 < words.size() && words[i + 1] == value))
      return name.size() == 2 ? "-" + name : name;
  }
  return "";
}

}  // namespace

CommandLine::CommandLine(std::string name, std::string purpose, std::vector<std::string> examples)
    : name_(std::move(name)),
      purpose_(std::move(purpose)),
      examples_(std::move(examples)),
      flags_(flags_of(name_)),
      options_("cbtm " + name_) {
  std::vector<std::string> positional;
  for (const Flag& flag : flags_) {
    std::string names(flag.name);
    if (!flag.alias.empty()) names += fmt::format(",{}", flag.alias);
    options_.add_options()(names, "", value_of(flag));
    if (flag.group.empty()) positional.emplace_back(flag.name);
  }
  options_.parse_positional(std::move(positional));
}

bool CommandLine::parse(int argc, char** argv) {
  as_typed_ = "cbtm " + name_;
  for (int place = 1; place < argc; ++place) as_typed_ += " " + replace_invalid_utf8(argv[place]);
  const std::vector<std::string> words = prepared_words(argc, argv);
  std::vector<const char*> pointers;
  for (const std::string& word : words) pointers.push_back(word.c_str());
  try {
    result_ = options_.parse(static_cast<int>(pointers.size()), pointers.data());
  } catch (const WrongNumber& wrong) {
    fail_usage("{}: {} '{}': must be {}", name_, flag_before(words, wrong.text), wrong.text, wrong.wanted);
  } catch (const cxxopts::exceptions::no_such_option& error) {
    refuse_unknown(words, error.what());
  } catch (const cxxopts::exceptions::exception& error) {
    fail_usage("{}: {}; cbtm {} --help lists all flags", name_, error.what(), name_);
  }
  if (get<bool>("help")) {
    const bool one_action = takes("what") && given("what");
    fmt::print("{}", help_text(name_, purpose_, examples_, one_action ? action_set() : uses_of(name_)));
    return false;
  }
  if (!result_->unmatched().empty())
    fail_usage("{}: unexpected argument '{}'; cbtm {} --help shows the usage", name_, result_->unmatched().front(),
               name_);
  check_flags_apply();
  apply_common();
  return true;
}

std::vector<std::string> CommandLine::prepared_words(int argc, char** argv) const {
  std::vector<std::string> words = {argv[0]};
  for (int place = 1; place < argc; ++place) {
    std::string word = argv[place];
    const std::string name = word.starts_with("--") ? word.substr(2) : "";
    const Flag* flag = find_flag(flags_, name);
    if (flag != nullptr && flag->kind == FlagKind::list)
      word = joined_list(name, argc, argv, place);
    else if (flag != nullptr && flag->kind != FlagKind::toggle && place + 1 < argc)
      check_value_follows(name, argv[place + 1]);
    // cxxopts takes one-letter names as short options only; here --k is as good as --topk.
    if (word.size() >= 3 && word.starts_with("--") && (word.size() == 3 || word[3] == '=')) {
      words.push_back(word.substr(1, 2));
      if (word.size() > 3) words.push_back(word.substr(4));
      continue;
    }
    words.push_back(std::move(word));
  }
  return words;
}

/// --corpus A B C becomes --corpus=A<delimiter>B<delimiter>C. `place` goes on to the last value.
std::string CommandLine::joined_list(const std::string& name, int argc, char** argv, int& place) const {
  std::string joined;
  while (place + 1 < argc && !is_flag(argv[place + 1])) {
    if (!joined.empty()) joined += kListDelimiter;
    joined += argv[++place];
  }
  if (joined.empty()) fail_usage("{}: --{} needs at least one value", name_, name);
  return fmt::format("--{}={}", name, joined);
}

/// A value that was forgotten: cxxopts would take the next flag for it, and write a file of that name.
void CommandLine::check_value_follows(const std::string& name, std::string_view next) const {
  if (!is_flag(next) || !next.starts_with("--")) return;
  if (find_flag(flags_, bare_name(std::string(next))) != nullptr)
    fail_usage("{}: --{} needs a value, but {} follows, which is a flag; if it is the value, write --{}={}", name_,
               name, next, name, next);
}

void CommandLine::refuse_unknown(const std::vector<std::string>& words, const std::string& message) const {
  std::vector<std::string> names;
  for (const Flag& flag : flags_) names.emplace_back(flag.name);
  for (const std::string& word : words) {
    if (!is_flag(word)) continue;
    const std::string name = bare_name(word);
    if (find_flag(flags_, name) != nullptr) continue;
    if (const CommandSet others = commands_with(name); others != 0)
      fail_usage("{}: --{} does nothing here, it is a flag of {}; cbtm {} --help lists all", name_, name,
                 set_name(others), name_);
    const std::string near = nearest_word(name, names);
    fail_usage("{}: unknown flag {}{}; cbtm {} --help lists all", name_, word.substr(0, word.find('=')),
               near.empty() ? "" : fmt::format(", did you mean --{}?", near), name_);
  }
  fail_usage("{}: {}", name_, message);
}

/// The bit of the action that was asked for, or those of all if there is no such action: the command then says so.
CommandSet CommandLine::action_set() const {
  if (find_flag(flags_, "what") == nullptr) return uses_of(name_);
  for (const CommandUse& use : command_uses())
    if (use.command == name_ && has("what") && use.action == action()) return use.bit;
  return uses_of(name_);
}

bool CommandLine::takes(std::string_view flag) const {
  const Flag* const found = find_flag(flags_, flag);
  return found != nullptr && (!result_ || (found->commands & action_set()) != 0);
}

void CommandLine::check_flags_apply() const {
  for (const Flag& flag : flags_) {
    if (!given(std::string(flag.name)) || takes(flag.name)) continue;
    fail_usage("{} {}: --{} does nothing here, it is a flag of {}; cbtm {} {} --help lists all", name_, action(),
               flag.name, set_name(commands_with(flag.name)), name_, action());
  }
}

void CommandLine::apply_common() {
  common_.threads =
      takes("threads") && given("threads") ? static_cast<int>(integer("threads", 1, 4096)) : available_threads();
  if (takes("seed")) common_.seed = get<uint64_t>("seed");
  if (takes("json") && given("json")) {
    common_.json = text("json");
    check_writable(*common_.json, OutputKind::json_result);
    check_no_input(*common_.json, "json");
  }
  common_.quiet = get<bool>("quiet");
  if (takes("device")) common_.device = text("device");
  if (takes("profile")) common_.profile = text("profile");
  set_thread_count(common_.threads);
  set_quiet(common_.quiet);
  if (takes("no-verify") && get<bool>("no-verify")) {
    set_content_verification(false);
    say("content hashes of weights, shards and expert.json are not verified (--no-verify)");
  }
}

void CommandLine::check_no_input(const std::filesystem::path& output, const std::string& flag) const {
  std::error_code error;
  // A file of another result need not be there yet.
  const auto same_place = [&](const Flag& other, const std::string& value) {
    const bool names_a_path = other.value_name == "FILE" || other.value_name == "DIR" || other.value_name == "PATH" ||
                              other.value_name == "PATH...";
    return std::filesystem::equivalent(value, output, error) ||
           (names_a_path &&
            std::filesystem::weakly_canonical(value, error) == std::filesystem::weakly_canonical(output, error));
  };
  for (const Flag& other : flags_) {
    const std::string name(other.name);
    if (name == flag || other.kind == FlagKind::toggle || !given(name)) continue;
    std::vector<std::string> values;
    if (other.kind == FlagKind::list)
      values = parsed()[name].as<std::vector<std::string>>();
    else
      values = {raw_value(name)};
    for (const std::string& value : values)
      if (!value.empty() && same_place(other, value))
        fail_usage("{}: --{} {} is also what --{} names; name another file for the result", name_, flag,
                   output.string(), name);
  }
}

std::string CommandLine::raw_value(const std::string& flag) const {
  for (const cxxopts::KeyValue& argument : parsed().arguments())
    if (argument.key() == flag) return argument.value();
  return "";
}

const cxxopts::ParseResult& CommandLine::parsed() const {
  CBTM_ASSERT(result_.has_value(), "flags are read after parse()");
  return *result_;
}

bool CommandLine::has(const std::string& flag) const {
  const Flag* const found = find_flag(flags_, flag);
  CBTM_ASSERT(found != nullptr, "a command asks for the flags of its own rows only");
  return given(flag) || found->default_value != nullptr || found->kind == FlagKind::toggle;
}

void CommandLine::missing(const std::string& flag) const {
  fail_usage("{}: --{} is needed; cbtm {} --help shows an example", name_, flag, name_);
}

int64_t CommandLine::integer(const std::string& flag, int64_t low, int64_t high) const {
  const int64_t value = get<int64_t>(flag);
  if (value < low || value > high) {
    if (high == INT64_MAX) fail_usage("{}: --{} is {}, but must be at least {}", name_, flag, value, low);
    fail_usage("{}: --{} is {}, but must lie between {} and {}", name_, flag, value, low, high);
  }
  return value;
}

double CommandLine::number(const std::string& flag, double low, double high) const {
  const double value = get<double>(flag);
  if (!(value >= low && value <= high))
    fail_usage("{}: --{} is {}, but must lie between {} and {}", name_, flag, value, low, high);
  return value;
}

void CommandLine::write_json(const Json& result) const {
  if (!common_.json) return;
  Json marked = result;
  if (marked.is_object()) marked["_made_by"] = fmt::format("cbtm {}", CBTM_VERSION);  // the first key: see OutputKind
  write_json_file(*common_.json, marked);
}

}  // namespace cbtm
