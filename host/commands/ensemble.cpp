#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <iostream>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/numbers.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/signals.h"
#include "cbtm/device/open_device.h"
#include "cbtm/ensemble/session.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/model/families.h"
#include "cbtm/pipeline/router_temperature.h"
#include "commands/commands.h"
#include "commands/evaluation_flags.h"
#include "commands/generation_flags.h"
#include "commands/type_flags.h"

namespace cbtm {
namespace {

/// "1,2,4,all" in the order given.
std::vector<int64_t> parse_top_k(const std::string& text, int64_t clusters) {
  std::vector<int64_t> values;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string part = text.substr(begin, end - begin);
    begin = end + 1;
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

ExpertSet open_experts(const CommandLine& line) {
  return ExpertSet::open({.experts = line.path("experts"),
                          .router = line.path_or_none("router"),
                          .tokenizer = line.path_or_none("tokenizer"),
                          .run = line.path_or_none("run"),
                          .weights = line.takes("weights") ? weights_flag(line) : WeightFormat::f32});
}

/// The run that the experts lie in, or "" if they stand alone.
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
  return static_cast<double>(power);
}

/// The temperature asked for; tuning it records it in the experts' router.
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
  const double best =
      tune_temperature(device, experts, run_documents(RunDirectory(root), "tune"), options, temperature_candidates());
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

int evaluate(const CommandLine& line) {
  if (line.given("token-log-probs")) {
    check_writable(line.path("token-log-probs"), OutputKind::token_details);
    line.check_no_input(line.path("token-log-probs"), "token-log-probs");
  }
  check_document_flags(line);
  install_stop_signals();
  const ExpertSet experts = open_experts(line);
  const std::unique_ptr<Device> device = open_device(line.common().device, line.common().profile);
  EvaluationOptions options{.routing = parse_routing_mode(line.text("routing"))};
  for (const int64_t top_k : parse_top_k(line.text("topk"), experts.router().clusters()))
    options.mixtures.push_back({top_k, 0.1, power_flag(line, experts)});
  if (line.given("max-tokens")) options.length_max = line.integer("max-tokens", 1, experts.max_length());
  options.memory_bytes = memory_flag(line);
  const double temperature = temperature_flag(*device, line, experts, options);
  for (Mixture& mixture : options.mixtures) mixture.temperature = temperature;
  options.matrix = line.get<bool>("matrix");
  std::optional<AtomicFile> details;
  if (line.given("token-log-probs")) {
    details.emplace(line.path("token-log-probs"));
    options.token_details = [&](const EvaluationDocument& document, const std::vector<double>& log_probabilities,
                                const std::vector<double>& weights) {
      const auto clusters = static_cast<int64_t>(experts.router().clusters());
      Json rows = Json::array();
      for (int64_t t = 0; t < static_cast<int64_t>(log_probabilities.size()); ++t)
        rows.push_back(std::vector<double>(weights.begin() + t * clusters, weights.begin() + (t + 1) * clusters));
      details->write(Json{{"id", document.id}, {"log_probabilities", log_probabilities}, {"weights", rows}}.dump() +
                     "\n");
    };
  }
  Json described;
  const auto documents = documents_of(line, experts.tokenizer(), run_of(line), described);
  const Evaluation evaluation = evaluate_ensemble(*device, experts, documents, options);
  if (details) details->commit();
  for (const Score& score : evaluation.scores)
    fmt::print("top-{:<4} perplexity {:.4f}\n", score.mixture.top_k, score.perplexity());
  const int64_t scored = evaluation.scores.front().tokens;
  fmt::print("{} tokens of {} documents in {:.1f} s; experts read {:.2f} times the text; T {}\n", format_count(scored),
             format_count(static_cast<int64_t>(documents.size())), evaluation.seconds,
             static_cast<double>(evaluation.tokens_read) / static_cast<double>(std::max<int64_t>(1, scored)),
             temperature);
  for (size_t expert = 0; expert < evaluation.matrix.size(); ++expert) {
    if (expert == 0) fmt::print("perplexity of expert (row) on documents of cluster (column)\n");
    fmt::print("{}", RunDirectory::cluster_name(static_cast<int64_t>(expert)));
    for (const double value : evaluation.matrix[expert]) fmt::print(" {:>9.2f}", value);
    fmt::print("\n");
  }
  const Json settings = {{"experts", line.text("experts")},
                         {"top_k", options.mixtures.front().top_k},
                         {"router_temperature", temperature},
                         {"distance_power", options.mixtures.front().distance_power},
                         {"routing", line.text("routing")},
                         {"max_tokens", options.length_max > 0 ? options.length_max : experts.trained_length()},
                         {"weights", weight_format_name(weights_flag(line))},
                         {"router_hash", experts.router().content_hash()},
                         {"experts_present", experts.present()},
                         {"command", line.as_typed()}};
  warn_of_lost_files(described.value("read", Json()));
  line.write_json(evaluation_json(evaluation_result(evaluation, settings, described)));
  return kExitSuccess;
}

/// Which experts wrote what: the text in pieces of one leading expert each.
void print_routing(const Generated& result, const Tokenizer& tokenizer) {
  std::vector<int32_t> piece;
  size_t begin = 0;
  const auto leader = [&](size_t t) {
    return std::max_element(result.weights[t].begin(), result.weights[t].end()) - result.weights[t].begin();
  };
  for (size_t t = 0; t < result.ids.size() && t < result.weights.size(); ++t) {
    piece.push_back(result.ids[t]);
    if (t + 1 < result.weights.size() && t + 1 < result.ids.size() && leader(t + 1) == leader(t)) continue;
    std::string weights;
    for (size_t j = 0; j < result.weights[begin].size(); ++j)
      if (result.weights[begin][j] > 0)
        weights +=
            fmt::format(" {}:{:.2f}", RunDirectory::cluster_name(static_cast<int64_t>(j)), result.weights[begin][j]);
    fmt::print(stderr, "[expert{}] {}\n", weights, Json(tokenizer.decode(piece, true)).dump());
    piece.clear();
    begin = t + 1;
  }
}

int generate_text(const CommandLine& line) {
  GenerationOptions options = generation_options(line);
  const RoutingMode routing = parse_routing_mode(line.text("routing"));
  const ExpertSet experts = open_experts(line);
  const std::unique_ptr<Device> device = open_device(line.common().device, line.common().profile);
  const std::vector<int64_t> top_k = parse_top_k(line.text("topk"), experts.router().clusters());
  if (top_k.size() != 1)
    fail_usage("--topk {}: several values are for evaluate; give one to generate", line.text("topk"));
  Mixture mixture{top_k.front(), 0.1, power_flag(line, experts)};
  mixture.temperature =
      temperature_flag(*device, line, experts, {.mixtures = {mixture}, .memory_bytes = memory_flag(line)});
  const std::vector<int64_t> end_tokens =
      read_model_spec(model_config_file(experts.experts().front().directory)).eos_token_ids;
  options.eos_ids.assign(end_tokens.begin(), end_tokens.end());
  const Tokenizer& tokenizer = experts.tokenizer();
  const auto pool = generation_pool(*device, experts, memory_flag(line));
  std::vector<Generated> all;
  const auto answer = [&](const std::vector<std::vector<int32_t>>& prompts) {
    const auto scorer = ensemble_scorer(pool, mixture, routing);
    const std::vector<Generated> results =
        generate(*scorer, &tokenizer, prompts, options, text_printer(prompts.size()));
    print_texts(results, &tokenizer);
    if (line.get<bool>("show-routing"))
      for (const Generated& result : results) print_routing(result, tokenizer);
    all.insert(all.end(), results.begin(), results.end());
  };
  if (!asks_at_terminal(line)) {
    answer(read_prompts(line, &tokenizer));
  } else {
    say("type a prompt; an empty line ends");
    for (std::string text; fmt::print("> "), std::fflush(stdout), std::getline(std::cin, text) && !text.empty();)
      answer({tokenizer.encode(text, {.add_bos = !line.get<bool>("no-bos"), .special_tokens = true})});
  }
  line.write_json(generation_json(all));
  check_finished(all);
  return kExitSuccess;
}

int average(const CommandLine& line) {
  check_replaceable(line.path("out"));
  std::error_code error;
  if (const std::filesystem::path out = line.path("out");
      std::filesystem::exists(out / "expert.json", error) ||
      (std::filesystem::exists(out, error) && !std::filesystem::is_empty(out, error) && !holds_model(out)))
    fail("{}: holds another result of cbtm, not an averaged model; name another directory", out.string());
  const ExpertSet experts = open_experts(line);
  std::vector<double> weights(static_cast<size_t>(experts.router().clusters()), 0.0);
  for (const Expert& expert : experts.experts())
    weights[static_cast<size_t>(expert.cluster)] = 1.0 / static_cast<double>(experts.experts().size());
  AtomicDirectory output(line.path("out"));
  write_model_checkpoint(output.path(), read_model_spec(model_config_file(experts.experts().front().directory)),
                         average_parameters(experts, weights));
  experts.tokenizer().save(output.path());
  output.commit();
  fmt::print("{}: the mean of {} experts\n", line.text("out"), experts.experts().size());
  return kExitSuccess;
}

}  // namespace

int run_ensemble(int argc, char** argv) {
  CommandLine line(
      "ensemble", "generate with, or evaluate, the experts together",
      {"cbtm ensemble --experts run/experts --topk 2 --prompt \"The state is\"",
       "cbtm ensemble evaluate --experts run/experts --topk 1,2,4,all --router-temperature tune --json result.json",
       "cbtm ensemble evaluate --experts run/experts --corpus held-out.jsonl --matrix",
       "cbtm ensemble average --experts run/experts --out averaged/      (one model of their mean weights)"});
  if (!line.parse(argc, argv)) return kExitSuccess;
  const std::string what = line.action();
  if (what == "evaluate") return evaluate(line);
  if (what == "generate") return generate_text(line);
  if (what == "average") return average(line);
  fail_usage("ensemble: '{}' is unknown; use generate, evaluate or average", what);
}

}  // namespace cbtm
