#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string_view>

#include "cbtm/route/router.h"

namespace cbtm {

/// A kind of router that open_router() is told of: as router.json names it, and what reads such a directory.
struct RouterReader {
  std::string_view kind;
  std::function<std::unique_ptr<Router>(const std::filesystem::path& directory)> read;
};

/// Reads the router in a directory, of whatever kind its router.json names (docs/formats.md, 'Router'): tf-idf, or one
/// of `more`. A router.json without a kind is of tf-idf. Throws Error naming file and field.
std::unique_ptr<Router> open_router(const std::filesystem::path& directory, std::span<const RouterReader> more = {});

}  // namespace cbtm
