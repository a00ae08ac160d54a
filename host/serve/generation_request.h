#pragma once

#include <memory>
#include <string>
#include <vector>

#include "serve/chat_template.h"
#include "serve/http_request.h"
#include "serve/job.h"

namespace cbtm {

/// A request for completions or for the answer in a chat, read and checked.
struct GenerationRequestBody {
  std::shared_ptr<Job> job;  ///< without on_update
  /// Texts of each prompt in the reply: if more are generated, those of the best mean log-probability.
  int64_t choices = 1;
  bool chat = false;
  bool echo = false;
  bool log_probabilities = false;    ///< in the reply
  bool include_usage = false;        ///< in a stream
  bool weights = false;              ///< of the experts for each token
  std::vector<std::string> ignored;  ///< names of fields that are not known here
};

/// What decides about all requests.
struct RequestRules {
  int64_t tokens_max = 0;  ///< as ServerSettings::tokens_max
  const ChatTemplate* chat_template = nullptr;
};

/// Reads the body of POST /v1/completions or /v1/chat/completions (docs/serving.md, 'Completions'). Throws ApiError
/// that names the field.
GenerationRequestBody read_generation_request(const std::string& body, bool chat,
                                              const std::shared_ptr<const Catalog>& catalog, const RequestRules& rules);

/// The body of a request as JSON. Throws ApiError.
Json parse_body(const std::string& body);

}  // namespace cbtm
