#include "commands/study_flags.h"

#include <optional>

#include "cbtm/base/error.h"
#include "cbtm/base/numbers.h"
#include "cbtm/base/split.h"

namespace cbtm {
namespace {

template <auto parse>
Json numbers_of(const CommandLine& line, const char* flag, const char* wanted) {
  Json list = Json::array();
  for (const std::string& part : split(line.text(flag), ',')) {
    const auto value = parse(part);
    if (!value) fail_usage("--{} {}: '{}' is not {}", flag, line.text(flag), part, wanted);
    list.push_back(*value);
  }
  return list;
}

/// The flags that were given, as the configuration's keys.
Json given_settings(const CommandLine& line) {
  Json json = Json::object();
  constexpr const char* kWhole = "a whole number, for example 4 or 16M";
  if (line.given("k")) json["k"] = numbers_of<parse_integer>(line, "k", kWhole);
  if (line.given("budgets")) json["budgets"] = numbers_of<parse_integer>(line, "budgets", kWhole);
  if (line.given("learning-rates"))
    json["learning_rates"] = numbers_of<parse_number>(line, "learning-rates", "a number, for example 3e-3");
  for (const char* flag : {"clusterings", "routers"})
    if (line.given(flag)) json[flag] = split(line.text(flag), ',');
  if (line.given("domain-field")) json["domain_field"] = line.text("domain-field");
  if (line.given("preset")) json["preset"] = line.text("preset");
  if (line.given("dropout")) json["dropout"] = line.number("dropout", 0, 0.99);
  for (const auto& [flag, key] : {std::pair{"seeds", "seeds"},
                                  {"vocab-size", "vocab_size"},
                                  {"sequence", "sequence"},
                                  {"batch-tokens", "batch_tokens"},
                                  {"seed-tokens", "seed_tokens"}})
    if (line.given(flag)) json[key] = line.integer(flag, 1);
  return json;
}

}  // namespace

study::Config study_config(const CommandLine& line) {
  study::Config config;
  if (line.given("config")) {
    const std::filesystem::path file = line.path("config");
    study::read_config(read_json_file(file), file.string(), config);
  }
  const Json given = given_settings(line);
  try {
    study::read_config(given, "the command line", config);
  } catch (const Error& error) {
    fail_usage("{}", error.what());
  }
  study::check_config(config);
  return config;
}

StudyPart study_part(const CommandLine& line) {
  if (!line.given("part")) return {};
  const std::vector<std::string> numbers = split(line.text("part"), '/');
  constexpr int64_t kPartsMax = 1'000'000;
  std::optional<int64_t> part, parts;
  if (numbers.size() == 2) {
    part = parse_integer(numbers[0]);
    parts = parse_integer(numbers[1]);
  }
  if (!part || !parts || *parts < 1 || *parts > kPartsMax || *part < 1 || *part > *parts)
    fail_usage("--part {}: must be two numbers, which share and of how many, for example 1/4", line.text("part"));
  return {*part, *parts};
}

void check_join_flags(const CommandLine& line) {
  for (const char* flag :
       {"corpus",     "config",   "dry-run",      "part",         "keep-models", "redo",           "k",
        "budgets",    "seeds",    "clusterings",  "domain-field", "routers",     "learning-rates", "preset",
        "vocab-size", "sequence", "batch-tokens", "dropout",      "seed-tokens", "memory"})
    if (line.given(flag))
      fail_usage("--{} does nothing with --join, which makes no cells; leave one of them out", flag);
}

}  // namespace cbtm
