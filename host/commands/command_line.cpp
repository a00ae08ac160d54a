#include "commands/command_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <set>
#include <utility>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/content_hash.h"
#include "cbtm/base/error.h"
#include "cbtm/base/numbers.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/threads.h"
#include "cbtm/base/utf8.h"

namespace cbtm {
namespace {

/// A list flag's values are joined with this while they pass through cxxopts.
constexpr char kListDelimiter = '\x1f';

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row.back();
}

/// A list, told apart from a single text by its type.
class ListValue : public cxxopts::values::standard_value<std::vector<std::string>> {
 public:
  std::shared_ptr<cxxopts::Value> clone() const override { return std::make_shared<ListValue>(*this); }
  void parse(const std::string& joined) const override {
    std::vector<std::string>& values = *m_store;
    for (size_t begin = 0; begin <= joined.size();) {
      const size_t end = std::min(joined.find(kListDelimiter, begin), joined.size());
      values.push_back(joined.substr(begin, end - begin));
      begin = end + 1;
    }
  }
  bool is_container() const override { return true; }
};

/// What a number flag throws: cxxopts does not tell a value its flag's name, so parse() looks for it.
struct WrongNumber {
  std::string text;
  const char* wanted;
};

template <typename Number, auto parse_text>
class StrictValue : public cxxopts::values::standard_value<Number> {
 public:
  explicit StrictValue(const char* wanted) : wanted_(wanted) {}
  std::shared_ptr<cxxopts::Value> clone() const override { return std::make_shared<StrictValue>(*this); }
  void parse() const override { parse(this->m_default_value); }
  void parse(const std::string& text) const override {
    const std::optional<Number> value = parse_text(text);
    if (!value) throw WrongNumber{text, wanted_};
    *this->m_store = *value;
  }

 private:
  const char* wanted_;
};

/// True of a word that is a flag and not a value: "--name", "--name=value", "-k". "---" and "-5" are values.
bool is_flag(std::string_view word) {
  const auto letter = [&](size_t place) {
    return place < word.size() &&
           ((word[place] >= 'a' && word[place] <= 'z') || (word[place] >= 'A' && word[place] <= 'Z'));
  };
  if (word.starts_with("--")) return letter(2) || word == "--";
  return word.starts_with("-") && word.size() == 2 && letter(1);
}

/// Names of a flag. cxxopts takes one-letter names as short options only; here --k is as good as --topk.
std::vector<std::string> names_of(const cxxopts::HelpOptionDetails& option) {
  std::vector<std::string> names(option.l.begin(), option.l.end());
  if (!option.s.empty()) names.push_back(option.s);
  return names;
}

}  // namespace

std::shared_ptr<cxxopts::Value> text_flag() { return cxxopts::value<std::string>(); }
std::shared_ptr<cxxopts::Value> text_flag(const std::string& default_value) {
  return text_flag()->default_value(default_value);
}
std::shared_ptr<cxxopts::Value> list_flag() { return std::make_shared<ListValue>(); }
std::shared_ptr<cxxopts::Value> integer_flag() {
  return std::make_shared<StrictValue<int64_t, parse_integer>>("a whole number, for example 20000, 1e6 or 1.5M");
}
std::shared_ptr<cxxopts::Value> integer_flag(int64_t default_value) {
  return integer_flag()->default_value(std::to_string(default_value));
}
std::shared_ptr<cxxopts::Value> seed_flag(uint64_t default_value) {
  return std::make_shared<StrictValue<uint64_t, parse_unsigned>>("a whole number from 0 to 18446744073709551615")
      ->default_value(std::to_string(default_value));
}
std::shared_ptr<cxxopts::Value> number_flag() {
  return std::make_shared<StrictValue<double, parse_number>>("a number, for example 0.006 or 6e-3");
}
std::shared_ptr<cxxopts::Value> number_flag(const std::string& default_value) {
  return number_flag()->default_value(default_value);
}
std::shared_ptr<cxxopts::Value> switch_flag() { return cxxopts::value<bool>()->default_value("false"); }

std::string nearest_word(std::string_view word, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const bool extends = word.size() >= 3 && candidate.starts_with(word);
    const size_t distance = extends ? 1 : edit_distance(word, candidate);
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

CommandLine::CommandLine(std::string name, std::string purpose, std::vector<std::string> examples)
    : name_(std::move(name)), purpose_(std::move(purpose)), examples_(std::move(examples)), options_("cbtm " + name_) {}

void CommandLine::positional(std::vector<std::string> flags, const std::string& help) {
  options_.parse_positional(flags);
  positional_ = std::move(flags);
  positional_help_ = help;
}

std::vector<std::string> CommandLine::flag_names() const {
  std::vector<std::string> names;
  for (const std::string& group : options_.groups())
    for (const cxxopts::HelpOptionDetails& option : options_.group_help(group).options)
      for (const std::string& name : names_of(option)) names.push_back(name);
  return names;
}

bool CommandLine::parse(int argc, char** argv) {
  options_.add_options("General")("threads", "threads to use (default: the cores this process may use)", integer_flag(),
                                  "N")("seed", "seed of everything random", seed_flag(1234), "N")(
      "json", "write the result here, machine-readable", text_flag(), "FILE")(
      "quiet", "print results, warnings and errors only", switch_flag())(
      "no-verify", "use weights, shards and expert.json without comparing them with their recorded content hashes",
      switch_flag())("device", "auto, cpu, cuda or cuda:N; trainings: several GPUs, cuda:0,1 or cuda:0-3 or cuda:all",
                     text_flag("auto"), "NAME")(
      "profile",
      "a profiler captures these phases only: step, layer, checkpoint, validation, prompt, token (see scripts/profile)",
      text_flag(""), "PHASE[:FIRST[:COUNT]]")("help", "show this", switch_flag());

  // Lists: --corpus A B C becomes --corpus=A<delimiter>B<delimiter>C.
  std::set<std::string> lists, singles;
  for (const std::string& group : options_.groups())
    for (const cxxopts::HelpOptionDetails& option : options_.group_help(group).options) {
      if (option.is_boolean) continue;
      std::set<std::string>& names = option.is_container ? lists : singles;
      names.insert(option.l.begin(), option.l.end());
    }
  const std::vector<std::string> known = flag_names();
  std::vector<std::string> words = {argv[0]};
  as_typed_ = "cbtm " + name_;
  for (int place = 1; place < argc; ++place) as_typed_ += " " + replace_invalid_utf8(argv[place]);
  for (int place = 1; place < argc; ++place) {
    std::string word = argv[place];
    const std::string name = word.starts_with("--") ? word.substr(2) : "";
    if (lists.contains(name)) {
      std::string joined;
      while (place + 1 < argc && !is_flag(argv[place + 1])) {
        if (!joined.empty()) joined += kListDelimiter;
        joined += argv[++place];
      }
      if (joined.empty()) fail_usage("{}: --{} needs at least one value", name_, name);
      word = fmt::format("--{}={}", name, joined);
    } else if (singles.contains(name) && place + 1 < argc && is_flag(argv[place + 1])) {
      // A value that was forgotten: cxxopts would take the next flag for it, and write a file of that name.
      const std::string_view next = argv[place + 1];
      const std::string_view bare = next.substr(2, next.find('=') - 2);
      if (next.starts_with("--") && std::find(known.begin(), known.end(), bare) != known.end())
        fail_usage("{}: --{} needs a value, but {} follows, which is a flag; if it is the value, write --{}={}", name_,
                   name, next, name, next);
    }
    if (word.size() >= 3 && word.starts_with("--") && (word.size() == 3 || word[3] == '=')) {
      words.push_back(word.substr(1, 2));
      if (word.size() > 3) words.push_back(word.substr(4));
      continue;
    }
    words.push_back(std::move(word));
  }
  std::vector<const char*> pointers;
  for (const std::string& word : words) pointers.push_back(word.c_str());

  try {
    result_ = options_.parse(static_cast<int>(pointers.size()), pointers.data());
  } catch (const WrongNumber& wrong) {
    std::string flag;
    for (size_t i = 1; i < words.size() && flag.empty(); ++i) {
      const std::string& word = words[i];
      const std::string name = word.substr(0, word.find('='));
      if (word.starts_with("-") &&
          (word == name + "=" + wrong.text || (word == name && i + 1 < words.size() && words[i + 1] == wrong.text)))
        flag = name.size() == 2 ? "-" + name : name;
    }
    fail_usage("{}: {} '{}': must be {}", name_, flag, wrong.text, wrong.wanted);
  } catch (const cxxopts::exceptions::no_such_option& error) {
    const std::string message = error.what();
    for (const std::string& word : words) {
      if (!is_flag(word)) continue;
      const std::string name =
          word.substr(word.find_first_not_of('-') == std::string::npos ? 0 : word.find_first_not_of('-'));
      const std::string bare = name.substr(0, name.find('='));
      const std::vector<std::string> names = flag_names();
      if (std::find(names.begin(), names.end(), bare) != names.end()) continue;
      const std::string near = nearest_word(bare, names);
      fail_usage("{}: unknown flag {}{}; cbtm {} --help lists all", name_, word.substr(0, word.find('=')),
                 near.empty() ? "" : fmt::format(", did you mean --{}?", near), name_);
    }
    fail_usage("{}: {}", name_, message);
  } catch (const cxxopts::exceptions::exception& error) {
    fail_usage("{}: {}; cbtm {} --help lists all flags", name_, error.what(), name_);
  }
  if (get<bool>("help")) {
    print_help();
    return false;
  }
  if (!result_->unmatched().empty())
    fail_usage("{}: unexpected argument '{}'; cbtm {} --help shows the usage", name_, result_->unmatched().front(),
               name_);

  common_.threads = given("threads") ? static_cast<int>(integer("threads", 1, 4096)) : available_threads();
  common_.seed = get<uint64_t>("seed");
  if (given("json")) {
    common_.json = text("json");
    check_writable(*common_.json, OutputKind::json_result);
    check_no_input(*common_.json, "json");
  }
  common_.quiet = get<bool>("quiet");
  common_.device = text("device");
  common_.profile = text("profile");
  set_thread_count(common_.threads);
  set_quiet(common_.quiet);
  if (get<bool>("no-verify")) {
    set_content_verification(false);
    say("content hashes of weights, shards and expert.json are not verified (--no-verify)");
  }
  return true;
}

void CommandLine::check_no_input(const std::filesystem::path& output, const std::string& flag) const {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(output, error);
  if (!std::filesystem::is_regular_file(status)) return;
  for (const std::string& group : options_.groups())
    for (const cxxopts::HelpOptionDetails& option : options_.group_help(group).options)
      for (const std::string& other : names_of(option)) {
        if (other == flag || !given(other) || option.is_boolean) continue;
        std::vector<std::string> values;
        if (option.is_container)
          values = parsed()[other].as<std::vector<std::string>>();
        else
          values = {raw_value(other)};
        for (const std::string& value : values)
          if (!value.empty() && std::filesystem::equivalent(value, output, error))
            fail_usage("{}: --{} {} is also what --{} names; name another file for the result", name_, flag,
                       output.string(), other);
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
  if (given(flag)) return true;
  for (const std::string& group : options_.groups())
    for (const cxxopts::HelpOptionDetails& option : options_.group_help(group).options)
      for (const std::string& name : names_of(option))
        if (name == flag) return option.has_default;
  CBTM_ASSERT(false, "a flag is declared before it is asked for");
  return false;
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

void CommandLine::print_help() const {
  fmt::print("cbtm {}: {}\n\nusage: cbtm {} {}[flags]\n", name_, purpose_, name_,
             positional_help_.empty() ? "" : positional_help_ + " ");
  std::vector<std::string> titles = groups_;
  titles.emplace_back("General");
  for (const std::string& group : titles) {
    fmt::print("\n{}\n", group);
    for (const cxxopts::HelpOptionDetails& option : options_.group_help(group).options) {
      const std::string name = names_of(option).front();
      if (std::find(positional_.begin(), positional_.end(), name) != positional_.end()) continue;
      const std::string left = fmt::format("--{} {}", name, option.is_boolean ? "" : option.arg_help);
      const bool show_default = option.has_default && !option.is_boolean && !option.default_value.empty();
      fmt::print("  {:<34} {}{}\n", left, option.desc,
                 show_default ? fmt::format(" (default {})", option.default_value) : "");
    }
  }
  if (!examples_.empty()) fmt::print("\nexamples\n");
  for (const std::string& example : examples_) fmt::print("  {}\n", example);
}

}  // namespace cbtm
