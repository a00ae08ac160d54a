#pragma once

#include <string>

#include "cbtm/base/json.h"

namespace cbtm::study {

/// study.html: one page without scripts that loads nothing, of the numbers in study.json and study-times.json alone.
/// Every number in its tables stands in an element whose data-from says which one it is, as a JSON pointer into
/// study.json ("times:" and a pointer: into study-times.json).
std::string study_page(const Json& study, const Json& times);

}  // namespace cbtm::study
