#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "cbtm/model/weight_format.h"
#include "cbtm/route/routing_mode.h"

namespace cbtm {

/// Which models are served: experts with their router, or one model.
struct ServedFiles {
  std::filesystem::path experts, router, tokenizer, run;  ///< as in ExpertSetOptions
  std::filesystem::path model;                            ///< one model instead
  WeightFormat weights = WeightFormat::f32;
  int64_t top_k = 2;                     ///< experts that are mixed; 0: all
  std::optional<double> temperature;     ///< of the router; default: the router's own
  std::optional<double> distance_power;  ///< likewise
  RoutingMode routing;
  std::string alias;  ///< the name of the ensemble, or of the model; "": "ensemble", or the directory's name
};

struct ServerSettings {
  ServedFiles files;
  std::string device = "auto";
  int64_t memory_bytes = 0;                   ///< of the models' weights and caches; 0: most of what is free
  std::optional<int64_t> prompt_cache_bytes;  ///< of it, for prompts that no text uses; default: an eighth; 0: none
  std::string host = "127.0.0.1";
  int port = 8080;                      ///< 0: one that is free
  int64_t parallel = 32;                ///< texts that are generated at once
  int64_t queue = 256;                  ///< requests that may wait; more are refused
  int64_t tokens_max = 0;               ///< that one text may be given, whatever is asked for; 0: as many as fit
  double timeout = 60;                  ///< seconds without progress after which a connection is closed
  double drain = 30;                    ///< seconds that running requests have to end when the server is stopped
  std::vector<std::string> api_keys;    ///< none: requests need none
  std::string cors_origin;              ///< of pages that may use the server from a browser: a URL, or *; "": none
  std::filesystem::path log;            ///< "": requests are logged on stderr
  std::filesystem::path chat_template;  ///< "": {{role}}: {{content}} in a line each
};

/// Serves until SIGTERM or SIGINT, and ends when all requests have (docs/serving.md). SIGHUP opens the experts again.
/// Throws Error if it cannot begin, or cannot go on.
void serve(const ServerSettings& settings);

}  // namespace cbtm
