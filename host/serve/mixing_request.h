#pragma once

#include <optional>

#include "cbtm/base/json.h"
#include "serve/catalog.h"

namespace cbtm {

/// Reads `x_cbtm` of a request: how the experts are to be mixed (docs/serving.md, 'x_cbtm'). `mixing` stays empty if
/// the model has nothing to mix, or the settings of the server apply. Returns whether the reply shall hold the weights
/// of each token. Throws ApiError that names the field.
bool read_mixing(const JsonReader& body, const Catalog& catalog, const ServedModel& model,
                 std::optional<SequenceMixing>& mixing);

}  // namespace cbtm
