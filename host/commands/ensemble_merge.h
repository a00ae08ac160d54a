#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cbtm/base/json.h"
#include "cbtm/ensemble/expert_set.h"
#include "cbtm/ensemble/session.h"
#include "cbtm/model/spec.h"
#include "cbtm/route/routing_method.h"
#include "commands/command_line.h"

namespace cbtm {

/// Whether `ensemble generate` averages the experts' parameters for each prompt (--merge prompt). Throws a usage Error
/// for another value, and for flags that make no sense with it.
bool asks_for_merge(const CommandLine& line);

/// `ensemble generate --merge prompt`: for each prompt one model, Σ weight_j θ_j by the router's weights after the
/// prompt.
class MergedGeneration {
 public:
  MergedGeneration(Device& device, const ExpertSet& experts, std::shared_ptr<const RoutingMethod> method,
                   const CommandLine& line);

  /// Continues every prompt, those of the same weights together, and says on stderr what was merged. As generate().
  std::vector<Generated> generate(const std::vector<std::vector<int32_t>>& prompts, const GenerationOptions& options,
                                  const std::function<void(size_t, const std::string&)>& on_text);
  /// The weights of every prompt so far: [prompts, clusters].
  const std::vector<std::vector<double>>& weights() const { return weights_; }

 private:
  /// `pool`: the experts, where the router asks them.
  std::vector<double> weights_for(const std::vector<int32_t>& prompt,
                                  const std::function<std::shared_ptr<ExpertPool>()>& pool) const;
  /// Throws Error if a model of this shape and the caches of these prompts take more than --memory.
  void check_memory(const ModelSpec& spec, const std::vector<std::vector<int32_t>>& prompts,
                    const std::vector<size_t>& chosen, const GenerationOptions& options) const;

  Device& device_;
  const ExpertSet& experts_;
  std::shared_ptr<const RoutingMethod> method_;
  WeightFormat format_;
  int64_t memory_bytes_;  ///< 0: no limit
  std::vector<std::vector<double>> weights_;
};

}  // namespace cbtm
