#include "serve/mixing_request.h"

#include <algorithm>

#include "cbtm/ensemble/coefficients.h"
#include "serve/api_error.h"

namespace cbtm {
namespace {

constexpr const char* kFields[] = {"topk", "router_temperature", "distance_power", "routing", "experts"};

/// Which of the experts a text may use: names as /v1/experts has them, or numbers.
std::vector<uint8_t> read_experts(const JsonReader& list, const Catalog& catalog) {
  std::vector<uint8_t> present(catalog.experts()->present().size(), 0);
  for (size_t i = 0; i < list.as_list().size(); ++i) {
    const Json& name = list.json()[i];
    int64_t cluster = -1;
    if (name.is_number_integer()) cluster = name.get<int64_t>();
    if (name.is_string()) cluster = find_expert(*catalog.experts(), name.get<std::string>());
    if (cluster < 0 || cluster >= static_cast<int64_t>(present.size()) ||
        catalog.experts()->present()[static_cast<size_t>(cluster)] == 0)
      refuse(400, "'x_cbtm.experts': there is no expert {}; GET /v1/experts lists them", name.dump());
    present[static_cast<size_t>(cluster)] = 1;
  }
  if (std::find(present.begin(), present.end(), 1) == present.end()) refuse(400, "'x_cbtm.experts' is empty");
  return present;
}

/// Signed coefficients by expert: nothing is routed then, so nothing can be said about it.
void read_coefficients(const JsonReader& settings, const Catalog& catalog, SequenceMixing& mixing) {
  for (const char* field : kFields)
    if (settings.has(field))
      refuse(400, "'x_cbtm.{}' is how experts are routed, and 'x_cbtm.coefficients' routes nothing; leave one out",
             field);
  const JsonReader given = settings.object("coefficients");
  std::vector<std::pair<std::string, double>> named;
  for (const std::string& name : given.keys()) named.emplace_back(name, given.number(name));
  mixing.coefficients = coefficients_of(*catalog.experts(), named);
  mixing.routing = {.schedule = RoutingSchedule::prompt};
}

void read_settings(const JsonReader& settings, const Catalog& catalog, SequenceMixing& mixing) {
  const int64_t clusters = catalog.experts()->router().clusters();
  if (settings.has("topk")) {
    const JsonReader topk = settings.at("topk");
    const bool all = topk.json().is_string() && topk.as_text() == "all";
    mixing.mixture.top_k = all ? clusters : std::min(topk.as_integer(1), clusters);
  }
  mixing.mixture.temperature = settings.number_or("router_temperature", mixing.mixture.temperature, 1e-9, 1e9);
  if (settings.has("distance_power")) {
    const int64_t power = settings.integer("distance_power");
    if (power != 2 && power != 4) refuse(400, "'x_cbtm.distance_power' must be 2 or 4");
    if (power != 2 && !catalog.experts()->router().takes_distance_power())
      refuse(400, "'x_cbtm.distance_power' is {}, but the experts' router is {}, which has no other than 2", power,
             catalog.experts()->router().kind());
    mixing.mixture.distance_power = static_cast<double>(power);
  }
  if (settings.has("routing")) {
    const std::string& text = settings.text("routing");
    try {
      mixing.routing = parse_routing_mode(text);
    } catch (const std::exception&) {
      refuse(400, "'x_cbtm.routing' is {}; use token, every:N, lagged or prompt", Json(text).dump());
    }
    if (mixing.routing.schedule == RoutingSchedule::fraction)
      refuse(400, "'x_cbtm.routing': fraction needs a whole text; use token, every:N, lagged or prompt");
  }
  if (settings.has("experts")) mixing.present = read_experts(settings.at("experts"), catalog);
}

}  // namespace

bool read_mixing(const JsonReader& body, const Catalog& catalog, const ServedModel& model,
                 std::optional<SequenceMixing>& mixing) {
  if (model.kind == ServedModel::Kind::expert) {
    mixing = catalog.mixing();
    mixing->routing = {.schedule = RoutingSchedule::prompt};  // one expert: nothing to route
    mixing->present.assign(mixing->present.size(), 0);
    mixing->present[static_cast<size_t>(model.cluster)] = 1;
  }
  if (!body.has("x_cbtm")) return false;
  const JsonReader settings = body.object("x_cbtm");
  for (const std::string& key : settings.keys()) {
    const bool known = key == "weights" || key == "coefficients" ||
                       std::find(std::begin(kFields), std::end(kFields), key) != std::end(kFields);
    if (!known && settings.has(key)) refuse(400, "'x_cbtm.{}' is unknown", key);
    if (known && key != "weights" && settings.has(key) && model.kind != ServedModel::Kind::ensemble)
      refuse(400, "'x_cbtm.{}' is how experts are mixed, but '{}' is one model", key, model.id);
  }
  if (model.kind == ServedModel::Kind::ensemble) {
    mixing = catalog.mixing();
    if (settings.has("coefficients"))
      read_coefficients(settings, catalog, *mixing);
    else
      read_settings(settings, catalog, *mixing);
  }
  const bool weights = settings.truth_or("weights", false);
  if (weights && model.kind == ServedModel::Kind::single)
    refuse(400, "'x_cbtm.weights' are the experts' weights, but '{}' is one model", model.id);
  return weights;
}

}  // namespace cbtm
