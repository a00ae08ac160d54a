#include "commands/ensemble_prior.h"

#include <fmt/format.h>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/hash.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/signals.h"
#include "cbtm/device/open_device.h"
#include "cbtm/route/expert_prior.h"
#include "commands/evaluation_flags.h"
#include "commands/expert_flags.h"
#include "commands/token_details_file.h"
#include "commands/type_flags.h"

namespace cbtm {
namespace {

/// Throws Error unless the file is absent or an older prior.
void check_prior_output(const CommandLine& line) {
  const std::filesystem::path out = line.path("out");
  check_writable(out, OutputKind::json);
  line.check_no_input(out, "out");
  std::error_code error;
  if (!std::filesystem::exists(out, error)) return;
  Json there;
  try {
    there = read_json_file(out);
  } catch (const Error&) {  // then it is nothing of ours
  }
  if (!there.is_object() || there.value("kind", Json()) != "expert-prior")
    fail("{}: is there and is no prior of cbtm; it is left as it is, name another file", out.string());
}

std::string hash_of(const std::vector<EvaluationDocument>& documents) {
  StreamingHash hash;
  for (const EvaluationDocument& document : documents) {
    const auto length = static_cast<uint64_t>(document.ids.size());
    hash.update(&length, sizeof length);
    hash.update(document.ids.data(), document.ids.size() * sizeof document.ids[0]);
  }
  return hash.hex();
}

}  // namespace

int fit_prior(const CommandLine& line) {
  check_prior_output(line);
  check_token_details(line);
  check_document_flags(line);
  const std::string likelihood = line.text("likelihood");
  if (likelihood != "last" && likelihood != "exact") fail_usage("--likelihood {}: use last or exact", likelihood);
  install_stop_signals();
  const ExpertSet experts = open_experts(line, nullptr);
  const std::unique_ptr<Device> device = open_device(line.common().device, line.common().profile);
  EvaluationOptions options{.memory_bytes = memory_flag(line)};
  options.routers = {
      posterior_routing({.likelihood = likelihood == "exact" ? Likelihood::exact : Likelihood::last, .updating = true},
                        experts.present(), fmt::format("posterior:{}:prior=updating", likelihood))};
  if (line.given("max-tokens")) options.length_max = line.integer("max-tokens", 1, experts.max_length());
  TokenDetailsFile details(line, options);
  Json described;
  const auto documents = documents_of(line, experts.tokenizer(), run_of(line), described, "tune");
  const Evaluation evaluation = evaluate_ensemble(*device, experts, documents, options);
  ExpertPrior prior{.prior = evaluation.carried.front(),
                    .router_hash = experts.router().content_hash(),
                    .documents_hash = hash_of(documents),
                    .experts = std::vector<std::string>(experts.present().size()),
                    .documents = static_cast<int64_t>(documents.size()),
                    .likelihood = likelihood,
                    .command = line.as_typed()};
  for (const Expert& expert : experts.experts())
    prior.experts[static_cast<size_t>(expert.cluster)] = expert.directory.filename().string();
  write_json_file(line.path("out"), expert_prior_json(prior));
  details.commit();
  for (const Expert& expert : experts.experts())
    fmt::print("{}  {:.6f}  {}\n", RunDirectory::cluster_name(expert.cluster),
               prior.prior[static_cast<size_t>(expert.cluster)], expert.directory.filename().string());
  fmt::print("{}: the prior after {} documents, on whose {} tokens the perplexity is {:.4f}\n", line.text("out"),
             format_count(prior.documents), format_count(evaluation.scores.front().tokens),
             evaluation.scores.front().perplexity());
  line.write_json(expert_prior_json(prior));
  return kExitSuccess;
}

}  // namespace cbtm
