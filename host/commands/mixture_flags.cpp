#include "commands/mixture_flags.h"

#include "cbtm/base/error.h"
#include "cbtm/base/numbers.h"
#include "cbtm/base/split.h"
#include "cbtm/device/moe_operands.h"

namespace cbtm {
namespace {

/// "1,3,5"
std::vector<int64_t> listed_layers(const std::string& text, int64_t layers) {
  std::vector<int64_t> listed;
  for (const std::string& part : split(text, ',')) {
    const std::optional<int64_t> layer = parse_integer(part);
    if (!layer) fail_usage("--moe-layers {}: use odd, all, or numbers as 1,3,5", text);
    if (*layer < 0 || *layer >= layers) fail_usage("--moe-layers {}: the model's layers are 0 to {}", text, layers - 1);
    if (!listed.empty() && *layer <= listed.back()) fail_usage("--moe-layers {}: name them in order, each once", text);
    listed.push_back(*layer);
  }
  return listed;
}

std::vector<int64_t> layers_of(const std::string& text, const ModelSpec& dense) {
  if (text == "odd") return odd_layers(dense);
  if (text != "all") return listed_layers(text, dense.layers());
  std::vector<int64_t> all;
  for (int64_t layer = 0; layer < dense.layers(); ++layer) all.push_back(layer);
  return all;
}

}  // namespace

Upcycling upcycling_flags(const CommandLine& line, const ModelSpec& dense) {
  Upcycling upcycling{.experts = line.integer("moe-experts", kExpertsPerToken, kMaxExperts),
                      .layers = layers_of(line.text("moe-layers"), dense),
                      .seed = line.common().seed};
  const std::string init = line.text("router-init");
  if (init != "uniform" && init != "normal") fail_usage("--router-init {}: use uniform or normal", init);
  if (init == "normal") upcycling.router_init = RouterInit::normal;
  upcycled_spec(dense, upcycling);  // what cannot become a mixture is said before any work
  return upcycling;
}

}  // namespace cbtm
