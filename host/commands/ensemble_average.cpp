#include "commands/ensemble_average.h"

#include <fmt/format.h>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/model/families.h"
#include "commands/expert_flags.h"
#include "commands/expert_weights.h"

namespace cbtm {
namespace {

/// Throws Error if DIR holds something that is not an averaged model.
void check_output(const std::filesystem::path& out) {
  check_replaceable(out);
  std::error_code error;
  if (std::filesystem::exists(out / "expert.json", error) ||
      (std::filesystem::exists(out, error) && !std::filesystem::is_empty(out, error) && !holds_model(out)))
    fail("{}: holds another result of cbtm, not an averaged model; name another directory", out.string());
}

DType stored_type(const CommandLine& line) {
  const std::string text = line.text("stored-type");
  if (text == "float32") return DType::f32;
  if (text == "bf16") return DType::bf16;
  if (text == "fp16") return DType::f16;
  fail_usage("--stored-type {}: use float32, bf16 or fp16", text);
}

}  // namespace

int average_experts(const CommandLine& line) {
  if (line.given("router") && names_router_kind(line.text("router")))
    fail_usage("--router {}: an average has no router; a directory is that of the experts' clusters",
               line.text("router"));
  check_output(line.path("out"));
  const DType stored = stored_type(line);
  const ExpertSet experts = open_experts(line, nullptr);
  const std::vector<double> weights = expert_weights(line.text("expert-weights"), experts);
  AtomicDirectory output(line.path("out"));
  write_model_checkpoint(output.path(), read_model_spec(model_config_file(experts.experts().front().directory)),
                         average_parameters(experts, weights), stored);
  experts.tokenizer().save(output.path());
  const Json parents = averaged_experts_json(experts, weights);
  write_json_file(output.path() / "average.json", {{"format", 1},
                                                   {"weights", line.text("expert-weights")},
                                                   {"experts", parents},
                                                   {"router_hash", experts.router().content_hash()},
                                                   {"command", line.as_typed()}});
  output.commit();
  if (line.text("expert-weights") == "uniform") {
    fmt::print("{}: the mean of {} experts\n", line.text("out"), experts.experts().size());
  } else {
    fmt::print("{}: the weighted mean of {} experts\n", line.text("out"), parents.size());
  }
  for (const Json& parent : parents)
    fmt::print("{}  {:.6f}  {}\n", RunDirectory::cluster_name(parent["cluster"].get<int64_t>()),
               parent["weight"].get<double>(), parent["expert"].get<std::string>());
  return kExitSuccess;
}

}  // namespace cbtm
