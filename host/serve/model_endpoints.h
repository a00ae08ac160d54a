#pragma once

#include <string>

#include "cbtm/base/json.h"
#include "serve/catalog.h"
#include "serve/chat_template.h"
#include "serve/metrics.h"

namespace cbtm {

// The answers of endpoints that generate nothing (docs/serving.md). Bodies are those of the requests. All throw
// ApiError for a body that they cannot take, or where the server serves one model and the answer is about experts.

/// GET /v1/models.
Json models_json(const Catalog& catalog);
/// GET /v1/models/ID.
Json model_json(const Catalog& catalog, const std::string& id);
/// GET /v1/experts.
Json experts_json(const Catalog& catalog, const ServeMetrics& metrics);
/// POST /tokenize and /detokenize, GET /tokenizer_info.
Json tokenize_json(const Catalog& catalog, const std::string& body);
Json detokenize_json(const Catalog& catalog, const std::string& body);
Json tokenizer_info_json(const Catalog& catalog, const ChatTemplate& chat_template);
/// POST /v1/embeddings: how near a text is to each cluster, as the router sees it.
Json embeddings_json(const Catalog& catalog, const std::string& body);

}  // namespace cbtm
