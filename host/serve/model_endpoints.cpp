#include "serve/model_endpoints.h"

#include <algorithm>
#include <functional>

#include "cbtm/base/error.h"
#include "cbtm/cluster/tfidf_router.h"
#include "cbtm/run/run_directory.h"
#include "serve/api_error.h"
#include "serve/generation_request.h"
#include "serve/token_text.h"

namespace cbtm {
namespace {

constexpr size_t kInputsMax = 1024;

Json described(const Catalog& catalog, const ServedModel& model) {
  return {{"id", model.id},
          {"object", "model"},
          {"created", catalog.created()},
          {"owned_by", "cbtm"},
          {"max_model_len", catalog.max_length()}};
}

/// What is wrong with a field is the client's error.
template <typename Body>
Json answered(const std::string& text, const Body& body) {
  const Json json = parse_body(text);
  try {
    return body(JsonReader(json, "the request"));
  } catch (const Error& error) {
    throw ApiError(400, error.what());
  }
}

const ExpertSet& experts_of(const Catalog& catalog) {
  if (catalog.experts() == nullptr) refuse(404, "this server serves one model; it has no experts and no router");
  return *catalog.experts();
}

/// The bytes of float32 numbers in base64, as OpenAI's client asks for them.
std::string base64_of(const std::vector<float>& values) {
  static constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
  const size_t count = values.size() * sizeof(float);
  std::string text;
  for (size_t i = 0; i < count; i += 3) {
    uint32_t group = 0;
    for (size_t k = 0; k < 3; ++k) group = (group << 8) | (i + k < count ? bytes[i + k] : 0);
    for (size_t k = 0; k < 4; ++k) text += i + k <= count ? kDigits[(group >> (18 - 6 * k)) & 63] : '=';
  }
  return text;
}

Json embedded(const ExpertSet& experts, const std::string& text, size_t index, bool base64) {
  const Router& router = experts.router();
  if (router.runs_models())
    refuse(501, "the experts' router is '{}', which compares likelihoods; it has no vectors", router.kind());
  Json json = {{"object", "embedding"}, {"index", index}};
  const auto* tfidf = dynamic_cast<const TfidfRouter*>(&router);
  const std::unique_ptr<RoutingContext> context = router.context();
  context->append(text);
  std::vector<double> distances(static_cast<size_t>(router.clusters())), weights(distances.size());
  context->squared_distances(distances);
  context->weights(router.defaults(), experts.present(), weights);
  std::vector<float> embedding(distances.begin(), distances.end());  // of a router without a vector of its own
  if (tfidf != nullptr) {
    embedding.resize(static_cast<size_t>(tfidf->dimensions()));
    tfidf->embed(text, embedding);
  }
  json["embedding"] = base64 ? Json(base64_of(embedding)) : Json(embedding);
  json["x_cbtm"] = {{"squared_distances", distances}, {"weights", weights}};
  return json;
}

}  // namespace

Json models_json(const Catalog& catalog) {
  Json list = Json::array();
  for (const ServedModel& model : catalog.models()) list.push_back(described(catalog, model));
  return {{"object", "list"}, {"data", std::move(list)}};
}

Json model_json(const Catalog& catalog, const std::string& id) {
  const ServedModel* const model = catalog.find(id);
  if (model == nullptr) refuse(404, "there is no model '{}'; GET /v1/models lists them", id);
  return described(catalog, *model);
}

Json experts_json(const Catalog& catalog, const ServeMetrics& metrics) {
  const ExpertSet& experts = experts_of(catalog);
  const auto* tfidf = dynamic_cast<const TfidfRouter*>(&experts.router());
  const std::vector<double> tokens = metrics.expert_tokens();
  Json list = Json::array();
  for (const Expert& expert : experts.experts()) {
    const auto cluster = static_cast<size_t>(expert.cluster);
    std::vector<std::string> terms;
    if (expert.card) terms = expert.card->top_terms;
    if (terms.empty() && tfidf != nullptr && cluster < tfidf->parts().top_terms.size())
      terms = tfidf->parts().top_terms[cluster];
    list.push_back({{"expert", RunDirectory::cluster_name(expert.cluster)},
                    {"model", Catalog::expert_id(expert.cluster)},
                    {"cluster", expert.cluster},
                    {"top_terms", terms},
                    {"tokens", cluster < tokens.size() ? tokens[cluster] : 0.0}});
  }
  const SequenceMixing& mixing = catalog.mixing();
  return {{"object", "list"},
          {"data", std::move(list)},
          {"clusters", experts.router().clusters()},
          {"router", experts.router().kind()},
          {"topk", mixing.mixture.top_k},
          {"router_temperature", mixing.mixture.temperature},
          {"distance_power", mixing.mixture.distance_power}};
}

Json tokenize_json(const Catalog& catalog, const std::string& body) {
  return answered(body, [&](const JsonReader& request) {
    const bool special = request.truth_or("add_special_tokens", true);
    const std::string& text = request.text(request.has("content") ? "content" : "prompt");
    const std::vector<int32_t> ids = catalog.tokenizer().encode(text, {.add_bos = special, .special_tokens = true});
    Json json = {{"tokens", ids}, {"count", ids.size()}, {"max_model_len", catalog.max_length()}};
    if (request.truth_or("return_token_strs", false)) {
      json["token_strs"] = Json::array();
      for (const int32_t id : ids) json["token_strs"].push_back(token_text(catalog.tokenizer(), id));
    }
    return json;
  });
}

Json detokenize_json(const Catalog& catalog, const std::string& body) {
  return answered(body, [&](const JsonReader& request) {
    std::vector<int32_t> ids;
    for (const int64_t id : request.integers("tokens", 0, catalog.vocab_size() - 1))
      ids.push_back(static_cast<int32_t>(id));
    const std::string text = catalog.tokenizer().decode(ids);
    return Json{{"prompt", text}, {"content", text}};
  });
}

Json tokenizer_info_json(const Catalog& catalog, const ChatTemplate& chat_template) {
  const Tokenizer& tokenizer = catalog.tokenizer();
  const auto named = [&](int32_t id) { return std::string(tokenizer.bytes_of(id)); };
  return {{"tokenizer_class", "byte-level BPE"},      {"vocab_size", tokenizer.vocab_size()},
          {"bos_token", named(tokenizer.bos_id())},   {"eos_token", named(tokenizer.eos_id())},
          {"pad_token", named(tokenizer.pad_id())},   {"bos_token_id", tokenizer.bos_id()},
          {"eos_token_id", tokenizer.eos_id()},       {"pad_token_id", tokenizer.pad_id()},
          {"model_max_length", catalog.max_length()}, {"chat_template", chat_template.text()}};
}

Json embeddings_json(const Catalog& catalog, const std::string& body) {
  const ExpertSet& experts = experts_of(catalog);
  return answered(body, [&](const JsonReader& request) {
    const std::string format = request.text_or("encoding_format", "float");
    if (format != "float" && format != "base64") refuse(400, "'encoding_format' must be float or base64");
    const JsonReader input = request.at("input");
    std::vector<std::string> texts;
    if (input.json().is_string()) {
      texts.push_back(input.as_text());
    } else if (input.json().is_array() && !input.json().empty() && !input.json()[0].is_string()) {
      // Token ids, as some clients send: one list, or several.
      const auto decoded = [&](const JsonReader& list) {
        std::vector<int32_t> ids;
        for (const int64_t id : list.as_integers(0, catalog.vocab_size() - 1)) ids.push_back(static_cast<int32_t>(id));
        return catalog.tokenizer().decode(ids, /*skip_special=*/true);
      };
      if (input.json()[0].is_number())
        texts.push_back(decoded(input));
      else
        for (size_t i = 0; i < input.size(); ++i) texts.push_back(decoded(input.item(i)));
    } else {
      texts = input.as_texts();
    }
    if (texts.empty() || texts.size() > kInputsMax) refuse(400, "'input' must hold between 1 and {} texts", kInputsMax);
    Json list = Json::array();
    int64_t tokens = 0;
    for (size_t i = 0; i < texts.size(); ++i) {
      list.push_back(embedded(experts, texts[i], i, format == "base64"));
      tokens += static_cast<int64_t>(catalog.tokenizer().encode(texts[i]).size());
    }
    return Json{{"object", "list"},
                {"data", std::move(list)},
                {"model", "router"},
                {"usage", {{"prompt_tokens", tokens}, {"total_tokens", tokens}}}};
  });
}

}  // namespace cbtm
