#include "report/curves.h"

#include <algorithm>
#include <cmath>

namespace cbtm::report {

std::vector<Point> held_out_curve(const ModelFacts& model) {
  std::vector<Point> points;
  for (const MetricPoint& metric : model.metrics)
    if (std::isfinite(metric.validation_loss)) points.push_back({metric.tokens, metric.validation_loss});
  return points;
}

std::vector<Point> training_curve(const ModelFacts& model) {
  constexpr size_t kStretches = 60;
  std::vector<Point> steps;
  for (const MetricPoint& metric : model.metrics)
    if (std::isfinite(metric.loss)) steps.push_back({metric.tokens, metric.loss});
  const size_t stretches = std::min(kStretches, steps.size());
  std::vector<Point> points;
  for (size_t i = 0; i < stretches; ++i) {
    const size_t begin = i * steps.size() / stretches, end = (i + 1) * steps.size() / stretches;
    double sum = 0;
    for (size_t step = begin; step < end; ++step) sum += steps[step].y;
    points.push_back({steps[end - 1].x, sum / static_cast<double>(end - begin)});
  }
  return points;
}

}  // namespace cbtm::report
