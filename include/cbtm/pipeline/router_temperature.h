#pragma once

#include <filesystem>
#include <vector>

#include "cbtm/route/router.h"

namespace cbtm {

/// The temperatures that tuning tries for a router: fixed multiples of its Router::temperature_scale().
std::vector<double> temperature_candidates(double scale);

/// Writes the router with this temperature and distance power; its content hash stays. Throws Error.
void record_temperature(const Router& router, double temperature, double distance_power,
                        const std::filesystem::path& directory);

}  // namespace cbtm
