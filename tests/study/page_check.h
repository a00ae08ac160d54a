#pragma once

#include <string>
#include <vector>

#include "cbtm/base/json.h"

namespace cbtm::study {

/// What is wrong with the numbers of a page: elements with data-from whose text is not that number, to the digits
/// shown, and cells of number tables that hold digits outside of such elements.
std::vector<std::string> page_number_faults(const std::string& page, const Json& study, const Json& times);

/// CHECKs that there are none, and returns how many numbers there were.
size_t check_page_numbers(const std::string& page, const Json& study, const Json& times);

/// CHECKs entries, findings that are differences of entries, best_k, learning rates and the fit of a study.json against
/// values computed from its cells' losses.
void check_study_numbers(const Json& study);

}  // namespace cbtm::study
