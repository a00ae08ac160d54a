#include "commands/ensemble_merge.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "cbtm/accounting/model_cost.h"
#include "cbtm/base/error.h"
#include "cbtm/base/memory.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/signals.h"
#include "cbtm/ensemble/merged_model.h"
#include "cbtm/model/families.h"
#include "cbtm/model/inference_memory.h"
#include "cbtm/run/run_directory.h"
#include "commands/type_flags.h"

namespace cbtm {
namespace {

/// "000 0.75, 003 0.25".
std::string described(const std::vector<double>& weights) {
  std::string text;
  for (size_t j = 0; j < weights.size(); ++j)
    if (weights[j] > 0)
      text += fmt::format("{}{} {:.4f}", text.empty() ? "" : ", ", RunDirectory::cluster_name(static_cast<int64_t>(j)),
                          weights[j]);
  return text;
}

/// "prompt 3", "prompts 1, 2, 7".
std::string named(const std::vector<size_t>& prompts) {
  std::string text = prompts.size() == 1 ? "prompt " : "prompts ";
  for (size_t i = 0; i < prompts.size(); ++i) text += fmt::format("{}{}", i == 0 ? "" : ", ", prompts[i] + 1);
  return text;
}

}  // namespace

bool asks_for_merge(const CommandLine& line) {
  if (!line.given("merge")) return false;
  if (line.text("merge") != "prompt") fail_usage("--merge {}: use prompt", line.text("merge"));
  if (line.given("coefficients"))
    fail_usage(
        "--merge prompt averages parameters by a router's weights, and --coefficients routes nothing; leave one "
        "of them out");
  if (line.given("routing") && line.text("routing") != "prompt")
    fail_usage("--routing {}: --merge prompt weighs the experts once, after the prompt; leave it out",
               line.text("routing"));
  if (line.get<bool>("show-routing"))
    fail_usage(
        "--show-routing does nothing with --merge prompt: one model writes the text; its weights are said anyway");
  return true;
}

MergedGeneration::MergedGeneration(Device& device, const ExpertSet& experts,
                                   std::shared_ptr<const RoutingMethod> method, const CommandLine& line)
    : device_(device),
      experts_(experts),
      method_(std::move(method)),
      format_(weights_flag(line)),
      memory_bytes_(memory_flag(line)) {}

std::vector<double> MergedGeneration::weights_for(const std::vector<int32_t>& prompt,
                                                  const std::function<std::shared_ptr<ExpertPool>()>& pool) const {
  if (prompt.empty()) fail("a prompt is empty; give at least one token");
  for (const int32_t id : prompt)
    if (id < 0 || id >= experts_.vocab_size())
      fail("token {} is outside the vocabulary of {} tokens", id, experts_.vocab_size());
  return prompt_weights(experts_, method_, prompt, pool);
}

void MergedGeneration::check_memory(const ModelSpec& spec, const std::vector<std::vector<int32_t>>& prompts,
                                    const std::vector<size_t>& chosen, const GenerationOptions& options) const {
  if (memory_bytes_ == 0) return;
  int64_t tokens = 0;
  for (const size_t prompt : chosen)
    tokens +=
        std::min(static_cast<int64_t>(prompts[prompt].size()) + options.new_tokens_max, spec.embedding.max_length);
  const DType cache = format_ != WeightFormat::f32 && device_.computes_in(DType::bf16) ? DType::bf16 : DType::f32;
  const int64_t needed = inference_weight_bytes(spec, format_) + tokens * key_value_bytes(spec, cache);
  if (needed > memory_bytes_)
    fail(
        "the merged model and the caches of {} prompt{} take {}, more than --memory {}; raise it, take smaller "
        "--weights, "
        "or give fewer prompts",
        chosen.size(), chosen.size() == 1 ? "" : "s", format_bytes(needed), format_bytes(memory_bytes_));
}

std::vector<Generated> MergedGeneration::generate(const std::vector<std::vector<int32_t>>& prompts,
                                                  const GenerationOptions& options,
                                                  const std::function<void(size_t, const std::string&)>& on_text) {
  std::vector<std::pair<std::vector<double>, std::vector<size_t>>> groups;  // prompts of the same weights
  std::shared_ptr<ExpertPool> pool;
  const auto shared_pool = [&] {
    if (pool == nullptr) pool = generation_pool(device_, experts_, memory_bytes_);
    return pool;
  };
  for (size_t prompt = 0; prompt < prompts.size(); ++prompt) {
    std::vector<double> weights = weights_for(prompts[prompt], shared_pool);
    weights_.push_back(weights);
    const auto same =
        std::find_if(groups.begin(), groups.end(), [&](const auto& group) { return group.first == weights; });
    if (same != groups.end())
      same->second.push_back(prompt);
    else
      groups.push_back({std::move(weights), {prompt}});
  }
  pool.reset();  // one model alone is on the device from here on
  const ModelSpec spec = read_model_spec(model_config_file(experts_.experts().front().directory));
  for (const auto& [weights, chosen] : groups) check_memory(spec, prompts, chosen, options);
  std::vector<Generated> results(prompts.size());
  for (const auto& [weights, chosen] : groups) {
    say(fmt::format("merged for {}: {}", named(chosen), described(weights)));
    const auto scorer = model_scorer(load_merged(device_, experts_, weights, format_));
    Session session(*scorer, &experts_.tokenizer());
    std::map<int64_t, size_t> prompt_of;  // by the session's number
    for (const size_t prompt : chosen) {
      GenerationRequest request{
          .prompt = prompts[prompt], .mixing = {}, .options = options, .random_stream = prompt, .on_text = {}};
      if (on_text) request.on_text = [&on_text, prompt](const std::string& piece) { on_text(prompt, piece); };
      prompt_of.emplace(session.add(std::move(request)), prompt);
    }
    while (!session.idle()) {
      stop_if_requested("generation");
      session.step();
    }
    for (const auto& [number, prompt] : prompt_of) results[prompt] = session.remove(number);
  }
  return results;
}

}  // namespace cbtm
