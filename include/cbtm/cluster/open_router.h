#pragma once

#include <filesystem>
#include <memory>

#include "cbtm/route/router.h"

namespace cbtm {

/// Reads the router in a directory, of whatever kind its router.json names (docs/formats.md, 'Router'). A router.json
/// without a kind is of the first kind, tf-idf. Throws Error naming file and field.
std::unique_ptr<Router> open_router(const std::filesystem::path& directory);

}  // namespace cbtm
