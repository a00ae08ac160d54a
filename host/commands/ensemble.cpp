#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <iostream>

#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/signals.h"
#include "cbtm/device/open_device.h"
#include "cbtm/ensemble/routing_methods.h"
#include "cbtm/ensemble/session.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/model/families.h"
#include "commands/coefficient_evaluation.h"
#include "commands/commands.h"
#include "commands/ensemble_average.h"
#include "commands/ensemble_merge.h"
#include "commands/ensemble_prior.h"
#include "commands/evaluation_flags.h"
#include "commands/expert_flags.h"
#include "commands/generation_flags.h"
#include "commands/token_details_file.h"
#include "commands/type_flags.h"

namespace cbtm {
namespace {

/// Whether a temperature for the experts' own router is needed.
bool needs_temperature(const std::vector<RouterSpec>& specs, const ExpertSet& experts) {
  return specs.empty() || std::any_of(specs.begin(), specs.end(), [&](const RouterSpec& spec) {
           return router_kind_name(spec.kind) == experts.router().kind() && !spec.temperature;
         });
}

int evaluate(const CommandLine& line) {
  check_token_details(line);
  check_document_flags(line);
  if (line.given("coefficients")) return evaluate_with_coefficients(line);
  const std::vector<RouterSpec> specs = router_specs(line);
  install_stop_signals();
  const std::unique_ptr<Device> device = open_device(line.common().device, line.common().profile);
  const ExpertSet experts = open_experts(line, device.get());
  check_own_router_flags(line, specs, experts);
  EvaluationOptions options{.routing = parse_routing_mode(line.text("routing"))};
  for (const int64_t top_k : parse_top_k(line.text("topk"), experts.router().clusters()))
    options.mixtures.push_back({top_k, 0.1, power_flag(line, experts)});
  if (!specs.empty()) routing_methods(specs, experts, options.mixtures);  // their files are read before any work
  if (line.given("max-tokens")) options.length_max = line.integer("max-tokens", 1, experts.max_length());
  options.memory_bytes = memory_flag(line);
  const std::vector<Mixture> asked = options.mixtures;
  const double temperature =
      needs_temperature(specs, experts) ? temperature_flag(*device, line, experts, options) : asked.front().temperature;
  for (Mixture& mixture : options.mixtures) mixture.temperature = temperature;
  if (!specs.empty()) {
    options.routers = routing_methods(specs, experts, options.mixtures);
    options.mixtures.clear();
  }
  options.matrix = line.get<bool>("matrix");
  TokenDetailsFile details(line, options);
  Json described;
  const auto documents = documents_of(line, experts.tokenizer(), run_of(line), described);
  const Evaluation evaluation = evaluate_ensemble(*device, experts, documents, options);
  details.commit();
  size_t widest = 0;
  for (const Score& score : evaluation.scores) widest = std::max(widest, score.router.size());
  for (const Score& score : evaluation.scores)
    fmt::print("{:<{}}{}top-{:<4} perplexity {:.4f}\n", score.router, widest, widest > 0 ? "  " : "", score.top_k,
               score.perplexity());
  const int64_t scored = evaluation.scores.front().tokens;
  fmt::print("{} tokens of {} documents in {:.1f} s; experts read {:.2f} times the text{}\n", format_count(scored),
             format_count(static_cast<int64_t>(documents.size())), evaluation.seconds,
             static_cast<double>(evaluation.tokens_read) / static_cast<double>(std::max<int64_t>(1, scored)),
             needs_temperature(specs, experts) ? fmt::format("; T {}", temperature) : "");
  for (size_t expert = 0; expert < evaluation.matrix.size(); ++expert) {
    if (expert == 0) fmt::print("perplexity of expert (row) on documents of cluster (column)\n");
    fmt::print("{}", RunDirectory::cluster_name(static_cast<int64_t>(expert)));
    for (const double value : evaluation.matrix[expert]) fmt::print(" {:>9.2f}", value);
    fmt::print("\n");
  }
  Json settings = {{"experts", line.text("experts")},
                   {"top_k", evaluation.scores.front().top_k},
                   {"router_temperature", temperature},
                   {"distance_power", asked.front().distance_power},
                   {"routing", line.text("routing")},
                   {"max_tokens", options.length_max > 0 ? options.length_max : experts.trained_length()},
                   {"weights", weight_format_name(weights_flag(line))},
                   {"router", experts.router().kind()},
                   {"router_hash", experts.router().content_hash()},
                   {"experts_present", experts.present()},
                   {"command", line.as_typed()}};
  for (const RouterSpec& spec : specs) settings["routers"].push_back(spec.text);
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
      if (result.weights[begin][j] != 0)
        weights +=
            fmt::format(" {}:{:.2f}", RunDirectory::cluster_name(static_cast<int64_t>(j)), result.weights[begin][j]);
    fmt::print(stderr, "[expert{}] {}\n", weights, Json(tokenizer.decode(piece, true)).dump());
    piece.clear();
    begin = t + 1;
  }
}

int generate_text(const CommandLine& line) {
  check_coefficients_alone(line);
  const bool merges = asks_for_merge(line);
  if (merges && !asks_at_terminal(line)) install_stop_signals();  // a merged model lies in a file for a while
  GenerationOptions options = generation_options(line);
  const RoutingMode routing = parse_routing_mode(line.text("routing"));
  const std::vector<RouterSpec> specs = router_specs(line);
  if (specs.size() > 1) fail_usage("--router {}: several are for evaluate; give one to generate", line.text("router"));
  const std::unique_ptr<Device> device = open_device(line.common().device, line.common().profile);
  const ExpertSet experts = open_experts(line, device.get());
  check_own_router_flags(line, specs, experts);
  const std::vector<int64_t> top_k = parse_top_k(line.text("topk"), experts.router().clusters());
  if (top_k.size() != 1)
    fail_usage("--topk {}: several values are for evaluate; give one to generate", line.text("topk"));
  Mixture mixture{top_k.front(), 0.1, power_flag(line, experts)};
  if (needs_temperature(specs, experts))
    mixture.temperature =
        temperature_flag(*device, line, experts, {.mixtures = {mixture}, .memory_bytes = memory_flag(line)});
  const std::shared_ptr<const RoutingMethod> router =
      specs.empty() ? distance_routing(mixture, experts.present())
                    : routing_methods(specs, experts, std::span(&mixture, 1)).front();
  const std::vector<int64_t> end_tokens =
      read_model_spec(model_config_file(experts.experts().front().directory)).eos_token_ids;
  options.eos_ids.assign(end_tokens.begin(), end_tokens.end());
  const Tokenizer& tokenizer = experts.tokenizer();
  const std::shared_ptr<ExpertPool> pool = merges ? nullptr : generation_pool(*device, experts, memory_flag(line));
  MergedGeneration merged(*device, experts, router, line);
  std::optional<SequenceMixing> mixing;
  if (line.given("coefficients"))
    mixing = SequenceMixing{
        mixture, {.schedule = RoutingSchedule::prompt}, experts.present(), nullptr, coefficients_flag(line, experts)};
  std::vector<Generated> all;
  const auto answer = [&](const std::vector<std::vector<int32_t>>& prompts) {
    const auto printer = text_printer(prompts.size());
    const std::vector<Generated> results =
        merges ? merged.generate(prompts, options, printer)
               : generate(*ensemble_scorer(pool, router, routing), &tokenizer, prompts, options, printer, mixing);
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
  Json json = generation_json(all);
  if (merges) json["merged"] = merged.weights();
  line.write_json(json);
  check_finished(all);
  return kExitSuccess;
}

}  // namespace

int run_ensemble(int argc, char** argv) {
  CommandLine line(
      "ensemble", "generate with, or evaluate, the experts together",
      {"cbtm ensemble --experts run/experts --topk 2 --prompt \"The state is\"",
       "cbtm ensemble generate --experts run/experts --merge prompt --prompt \"...\"   (one averaged model, by the "
       "prompt)",
       "cbtm ensemble evaluate --experts run/experts --topk 1,2,4,all --router-temperature tune --json result.json",
       "cbtm ensemble evaluate --experts run/experts --corpus held-out.jsonl --matrix",
       "cbtm ensemble evaluate --experts run/experts --coefficients 000=1,002=-0.5",
       "cbtm ensemble evaluate --experts run/experts --router tfidf:topk=2,posterior,posterior:last,uniform",
       "cbtm ensemble prior --experts run/experts --corpus some-of-a-domain.jsonl --out prior.json",
       "cbtm ensemble evaluate --experts run/experts --router posterior:last:prior=prior.json --topk 1,2,all",
       "cbtm ensemble average --experts run/experts --out averaged/      (one model of their mean weights)",
       "cbtm ensemble average --experts run/experts --expert-weights posterior:prior.json --out for-a-domain/"});
  if (!line.parse(argc, argv)) return kExitSuccess;
  const std::string what = line.action();
  if (what == "evaluate") return evaluate(line);
  if (what == "generate") return generate_text(line);
  if (what == "average") return average_experts(line);
  if (what == "prior") return fit_prior(line);
  fail_usage("ensemble: '{}' is unknown; use generate, evaluate, prior or average", what);
}

}  // namespace cbtm
