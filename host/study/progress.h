#pragma once

#include <map>
#include <string>
#include <vector>

#include "cbtm/study/cell_result.h"
#include "cbtm/study/config.h"
#include "cbtm/study/workplace.h"

namespace cbtm::study {

/// FLOPs of the trainings of each cell: what parts are made equal in.
std::vector<double> cell_costs(const Config& config, const std::vector<Cell>& cells);

/// The times.json of the cells that have one, by name.
std::map<std::string, CellTimes> times_of(const Workplace& place, const std::vector<Cell>& cells);

/// Training FLOPs per second of the cells that are done, their evaluations included; 0 if none is.
double measured_rate(const Workplace& place, const Config& config);

/// "study: 13 of 81 cells, 17 % of the work; about 1:40:00 left".
std::string progress_line(const Workplace& place, const Config& config, const std::vector<Cell>& own,
                          const std::vector<Cell>& left);

}  // namespace cbtm::study
