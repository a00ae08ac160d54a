#include "commands/expert_flags.h"

#include <algorithm>

#include "cbtm/base/error.h"
#include "cbtm/base/numbers.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/split.h"
#include "cbtm/pipeline/router_temperature.h"
#include "commands/type_flags.h"

namespace cbtm {
namespace {

/// The directory of the experts' router, "" for the usual one. --router DIR says so too, as --router-directory does.
std::filesystem::path router_directory(const CommandLine& line) {
  const bool is_directory = line.given("router") && !names_router_kind(line.text("router"));
  if (!line.takes("router-directory")) return line.path_or_none("router");
  if (!is_directory) return line.path_or_none("router-directory");
  if (line.given("router-directory"))
    fail_usage("--router {} and --router-directory {}: both name a directory; leave one of them out",
               line.text("router"), line.text("router-directory"));
  return line.path("router");
}

}  // namespace

std::vector<int64_t> parse_top_k(const std::string& text, int64_t clusters) {
  std::vector<int64_t> values;
  for (const std::string& part : split(text, ',')) {
    int64_t value = 0;
    if (part == "all") {
      value = clusters;
    } else if (part.empty() || part.size() > 9 || part.find_first_not_of("0123456789") != std::string::npos ||
               (value = std::stoll(part)) < 1) {
      fail_usage("--topk {}: must be a number of experts from 1, all, or several of them with commas between", text);
    }
    values.push_back(std::min(value, clusters));
  }
  return values;
}

ExpertSet open_experts(const CommandLine& line, Device* device) {
  return ExpertSet::open({.experts = line.path("experts"),
                          .router = router_directory(line),
                          .tokenizer = line.path_or_none("tokenizer"),
                          .run = given_run(line),
                          .weights = line.takes("weights") ? weights_flag(line) : WeightFormat::f32,
                          .device = device});
}

std::filesystem::path given_run(const CommandLine& line) {
  const std::filesystem::path run = line.path_or_none("run");
  if (!run.empty() && !std::filesystem::exists(run)) fail_usage("--run {}: is not there", run.string());
  return run;
}

std::filesystem::path run_of(const CommandLine& line) {
  std::filesystem::path experts = std::filesystem::absolute(line.path("experts")).lexically_normal();
  if (!experts.has_filename()) experts = experts.parent_path();
  const std::filesystem::path root = experts.parent_path();
  return std::filesystem::exists(RunDirectory(root).shards()) ? root : std::filesystem::path();
}

double power_flag(const CommandLine& line, const ExpertSet& experts) {
  if (!line.given("distance-power")) return experts.router().defaults().distance_power;
  const int64_t power = line.integer("distance-power", 2, 4);
  if (power == 3) fail_usage("--distance-power 3: use 2 or 4");
  if (power != 2 && !experts.router().takes_distance_power())
    fail_usage(
        "--distance-power {}: the experts' router is {}, whose weights are of likelihoods, not of a distance's "
        "power",
        power, experts.router().kind());
  return static_cast<double>(power);
}

double temperature_flag(Device& device, const CommandLine& line, const ExpertSet& experts,
                        const EvaluationOptions& options) {
  if (!line.given("router-temperature")) return experts.router().defaults().temperature;
  const std::string text = line.text("router-temperature");
  if (text != "tune") {
    const std::optional<double> value = parse_number(text);
    if (!value || !(*value > 0)) fail_usage("--router-temperature {}: must be a positive number or tune", text);
    return *value;
  }
  const std::filesystem::path root = line.given("run") ? line.path("run") : run_of(line);
  if (root.empty()) fail_usage("--router-temperature tune needs a run's held-out documents: give --run RUN");
  const double best = tune_temperature(device, experts, run_documents(RunDirectory(root), "tune"), options,
                                       temperature_candidates(experts.router().temperature_scale()));
  say(fmt::format("router temperature {} is best on the tune documents of {}", best, root.string()));
  if (const std::filesystem::path own = line.path("experts") / "router"; std::filesystem::exists(own)) {
    try {
      record_temperature(experts.router(), best, options.mixtures.front().distance_power, own);
    } catch (const Error& error) {  // a read-only directory, or a router that somebody else put there
      warn(fmt::format("the temperature is used, but not recorded: {}", error.what()));
    }
  }
  return best;
}

std::vector<RouterSpec> router_specs(const CommandLine& line) {
  if (!line.given("router")) return {};
  const std::string text = line.text("router");
  if (!names_router_kind(text) && std::filesystem::exists(text)) return {};
  std::vector<RouterSpec> specs = parse_router_specs(text);
  const auto any = [&](const auto& holds) { return std::any_of(specs.begin(), specs.end(), holds); };
  const auto refuse_unless = [&](bool useful, const char* flag, const char* kinds) {
    if (!useful && line.given(flag)) fail_usage("--{} does nothing with --router {}: it is for {}", flag, text, kinds);
  };
  const bool by_distance = any([](const RouterSpec& spec) { return spec.by_distance(); });
  if (line.takes("routing")) refuse_unless(by_distance, "routing", "tfidf and prefix");
  if (line.takes("distance-power")) {
    refuse_unless(any([](const auto& spec) { return spec.kind == RouterKind::tfidf && !spec.distance_power; }),
                  "distance-power", "tfidf without power=");
    refuse_unless(any([](const auto& spec) { return spec.by_distance() && !spec.temperature; }), "router-temperature",
                  "tfidf and prefix without temperature=");
    refuse_unless(any([](const auto& spec) { return spec.takes_top_k() && !spec.top_k; }), "topk",
                  "tfidf, prefix, and posterior with a prior from a file, without topk=");
  }
  return specs;
}

void check_own_router_flags(const CommandLine& line, const std::vector<RouterSpec>& specs, const ExpertSet& experts) {
  if (specs.empty()) return;
  const std::string own(experts.router().kind());
  const auto check = [&](const char* flag, const char* option, const auto& named) {
    if (!line.given(flag) || std::any_of(specs.begin(), specs.end(), [&](const RouterSpec& spec) {
          return router_kind_name(spec.kind) == own && !named(spec);
        }))
      return;
    fail_usage("--{} is of the experts' own router, {}, which --router {} does not ask; write {}= behind the kind",
               flag, own, line.text("router"), option);
  };
  check("router-temperature", "temperature", [](const RouterSpec& spec) { return spec.temperature.has_value(); });
  check("distance-power", "power", [](const RouterSpec& spec) { return spec.distance_power.has_value(); });
}

}  // namespace cbtm
