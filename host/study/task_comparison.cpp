#include "study/task_comparison.h"

#include <algorithm>
#include <map>
#include <tuple>

namespace cbtm::study {

double TaskEntry::mean() const {
  double sum = 0, count = 0;
  for (const std::vector<double>& of_seed : accuracies)
    for (const double accuracy : of_seed) {
      sum += accuracy;
      count += 1;
    }
  return sum / count;
}

std::vector<TaskEntry> task_entries(const Results& results) {
  std::map<std::tuple<std::string, System, std::string, int64_t>, TaskEntry> entries;
  for (const CellResult& cell : results.cells()) {
    const Entry* main = results.main(cell.cell.system);
    if (main == nullptr || main->learning_rate != cell.cell.learning_rate) continue;
    for (const TaskScore& score : cell.tasks) {
      TaskEntry& entry = entries[{score.task, cell.cell.system, score.router, score.top_k}];
      entry.task = score.task;
      entry.system = cell.cell.system;
      entry.router = score.router;
      entry.top_k = score.top_k;
      entry.seeds.push_back(cell.cell.seed);
      entry.accuracies.push_back(score.accuracies);
      entry.right.push_back(&score.right);
    }
  }
  std::vector<TaskEntry> list;
  for (auto& [key, entry] : entries) list.push_back(std::move(entry));
  return list;
}

std::optional<Estimate> accuracy_difference(const Config& config, const TaskEntry& a, const TaskEntry& b) {
  std::vector<std::vector<double>> differences;
  for (size_t i = 0; i < a.seeds.size(); ++i) {
    const auto found = std::find(b.seeds.begin(), b.seeds.end(), a.seeds[i]);
    if (found == b.seeds.end()) continue;
    const std::vector<double>& others = *b.right[static_cast<size_t>(found - b.seeds.begin())];
    if (others.size() != a.right[i]->size()) return std::nullopt;
    differences.push_back(*a.right[i]);
    for (size_t line = 0; line < others.size(); ++line) differences.back()[line] -= others[line];
  }
  if (differences.empty() || differences.front().empty()) return std::nullopt;
  const std::vector<int64_t> lines(differences.front().size(), 1);
  return Bootstrap(lines, config.resamples, config.bootstrap_seed).estimate(differences);
}

}  // namespace cbtm::study
