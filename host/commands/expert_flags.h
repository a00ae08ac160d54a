#pragma once

#include <filesystem>
#include <vector>

#include "cbtm/ensemble/evaluate.h"
#include "cbtm/ensemble/expert_set.h"
#include "cbtm/route/router_spec.h"
#include "commands/command_line.h"

namespace cbtm {

/// "1,2,4,all" in the order given.
std::vector<int64_t> parse_top_k(const std::string& text, int64_t clusters);

/// --experts, with the router's directory and the tokenizer. `device`: as in ExpertSetOptions.
ExpertSet open_experts(const CommandLine& line, Device* device);
/// --run, "" if it is not given; a usage Error if nothing is there.
std::filesystem::path given_run(const CommandLine& line);
/// The run that the experts lie in, or "" if they stand alone.
std::filesystem::path run_of(const CommandLine& line);

/// The kinds of routers that --router names; none if it was not given, or names a router's directory. Throws a usage
/// Error, also for flags that do nothing for any of them.
std::vector<RouterSpec> router_specs(const CommandLine& line);

/// Throws a usage Error for --router-temperature or --distance-power if none of `specs` is of the experts' own router,
/// which alone they are for.
void check_own_router_flags(const CommandLine& line, const std::vector<RouterSpec>& specs, const ExpertSet& experts);

double power_flag(const CommandLine& line, const ExpertSet& experts);
/// The temperature asked for; tuning it records it in the experts' router.
double temperature_flag(Device& device, const CommandLine& line, const ExpertSet& experts,
                        const EvaluationOptions& options);

}  // namespace cbtm
