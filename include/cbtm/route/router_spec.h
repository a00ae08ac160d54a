#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "cbtm/route/routing_method.h"

namespace cbtm {

enum class RouterKind : uint8_t { tfidf, prefix, posterior, uniform };

/// "tfidf", "prefix", "posterior", "uniform".
const char* router_kind_name(RouterKind kind);

/// One router as the command line names it: KIND[:OPTION...].
struct RouterSpec {
  RouterKind kind = RouterKind::tfidf;
  std::string text;              ///< as typed
  std::optional<int64_t> top_k;  ///< of a router by distance, and of a posterior with a prior from a file; 0: all
  // Of a router by distance; none: as for the whole command. The power is of tfidf alone.
  std::optional<double> temperature, distance_power;
  // posterior
  Likelihood likelihood = Likelihood::exact;
  bool updating = false;
  std::filesystem::path prior;  ///< a file that `cbtm ensemble prior` wrote; "": uniform
  bool first_from_all = false;

  /// Whether --topk says how many experts it uses, unless it says so itself.
  bool takes_top_k() const { return by_distance() || !prior.empty(); }
  /// Whether the distances of a Router weigh the experts.
  bool by_distance() const { return kind == RouterKind::tfidf || kind == RouterKind::prefix; }
};

/// True if `text` begins with the name of a kind, so that it is no directory.
bool names_router_kind(const std::string& text);

/// Reads "tfidf:power=4,posterior:last:prior=FILE:topk=2,uniform" (docs/method.md, 'Routers'). Throws a usage Error.
std::vector<RouterSpec> parse_router_specs(const std::string& text);

}  // namespace cbtm
