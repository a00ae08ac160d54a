#include "study/progress.h"

#include <fmt/format.h>

#include "cbtm/base/made_json.h"
#include "cbtm/base/progress.h"
#include "study/recipe.h"

namespace cbtm::study {

std::vector<double> cell_costs(const Config& config, const std::vector<Cell>& cells) {
  std::vector<double> costs;
  for (const Cell& cell : cells) costs.push_back(cell_flops(config, cell.system));
  return costs;
}

std::map<std::string, CellTimes> times_of(const Workplace& place, const std::vector<Cell>& cells) {
  std::map<std::string, CellTimes> times;
  for (const Cell& cell : cells) {
    const std::filesystem::path file = Workplace::times_json(place.cell(cell.name()));
    if (!std::filesystem::exists(file)) continue;
    times[cell.name()] = parse_cell_times(
        read_made_json(file, "remove it: nothing but the seconds that the cell took is lost"), file.string());
  }
  return times;
}

double measured_rate(const Workplace& place, const Config& config) {
  const std::vector<Cell> cells = cells_of(config);
  const std::map<std::string, CellTimes> times = times_of(place, cells);
  double flops = 0, seconds = 0;
  for (const Cell& cell : cells) {
    const auto found = times.find(cell.name());
    if (found == times.end()) continue;
    flops += cell_flops(config, cell.system);
    seconds += found->second.training_seconds + found->second.evaluation_seconds;
  }
  return seconds > 0 ? flops / seconds : 0;
}

std::string progress_line(const Workplace& place, const Config& config, const std::vector<Cell>& own,
                          const std::vector<Cell>& left) {
  double all_flops = 0, left_flops = 0;
  for (const double cost : cell_costs(config, own)) all_flops += cost;
  for (const double cost : cell_costs(config, left)) left_flops += cost;
  const double rate = measured_rate(place, config);
  return fmt::format(
      "study: {} of {} cells, {:.0f} % of the work{}", own.size() - left.size(), own.size(),
      100 * (all_flops - left_flops) / all_flops,
      rate > 0 && !left.empty() ? fmt::format("; about {} left", format_duration(left_flops / rate)) : "");
}

}  // namespace cbtm::study
