#include "cbtm/pipeline/router_temperature.h"

namespace cbtm {

std::vector<double> temperature_candidates(double scale) {
  std::vector<double> candidates = {0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0};
  for (double& candidate : candidates) candidate *= scale;
  return candidates;
}

void record_temperature(const Router& router, double temperature, double distance_power,
                        const std::filesystem::path& directory) {
  Mixture defaults = router.defaults();
  defaults.temperature = temperature;
  defaults.distance_power = distance_power;
  router.save(directory, defaults);
}

}  // namespace cbtm
