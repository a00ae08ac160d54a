#pragma once

#include <map>
#include <string>
#include <vector>

#include "cbtm/base/json.h"
#include "cbtm/study/cell_result.h"
#include "cbtm/study/results.h"

namespace cbtm::study {

/// The contents of study.json (docs/formats.md, 'study.json'): the same bytes for the same corpus, configuration and
/// cells. `missing`: the names of cells that are not there.
Json study_json(const Results& results, const std::vector<std::string>& missing);

/// The contents of study-times.json: what depends on the machine, by cell.
Json study_times_json(const Config& config, const std::map<std::string, CellTimes>& times);

}  // namespace cbtm::study
