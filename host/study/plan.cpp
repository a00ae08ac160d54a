#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "cbtm/base/memory.h"
#include "cbtm/base/progress.h"
#include "cbtm/model/parameter_layout.h"
#include "cbtm/study/cell_result.h"
#include "cbtm/study/study.h"
#include "cbtm/study/workplace.h"
#include "report/markup.h"
#include "study/progress.h"
#include "study/recipe.h"

namespace cbtm::study {
namespace {

constexpr int64_t kStatesKept = 2;               ///< of a training that runs (TrainingSettings::keep)
constexpr int64_t kStateBytesPerParameter = 12;  ///< weights and two moments
constexpr int64_t kWeightBytes = 4;

int64_t parameters_of(const Config& config, const System& system) {
  return ParameterLayout(model_of(config, system, config.vocab_size)).parameter_count();
}

/// Bytes of a cell's models.
int64_t model_bytes(const Config& config, const System& system) {
  return parameters_of(config, system) * kWeightBytes * (system.kind == SystemKind::ensemble ? system.k : 1);
}

/// Bytes of models and saved states at the worst moment.
int64_t disk_bytes(const StudyOptions& options, const std::vector<Cell>& cells) {
  const Config& config = options.config;
  int64_t all = 0, largest = 0, state = 0;
  for (const Cell& cell : cells) {
    const int64_t bytes = model_bytes(config, cell.system);
    all += bytes;
    largest = std::max(largest, bytes);
    state = std::max(state, kStatesKept * kStateBytesPerParameter * parameters_of(config, cell.system));
  }
  int64_t seed_parameters = parameters_of(config, System());
  if (config.larger.shape.given()) seed_parameters += parameters_of(config, {.larger = true});
  return (options.keep_models ? all : largest) + state + config.seeds * kWeightBytes * seed_parameters;
}

std::string seeds_line(const Config& config) {
  const int64_t shapes = config.larger.shape.given() ? 2 : 1;
  return fmt::format("  seed models: {} random seeds, {} tokens each{}\n", config.seeds,
                     report::format_short(static_cast<double>(config.seed_tokens)),
                     shapes == 2 ? ", of both shapes" : "");
}

}  // namespace

std::string plan_text(const StudyOptions& options) {
  const Config& config = options.config;
  const Workplace place(options.out);
  const std::vector<Cell> all = cells_of(config);
  const std::vector<Cell> own = cells_of_part(all, cell_costs(config, all), options.part, options.parts);
  std::map<System, int64_t> done_of, cells_of_system;
  double flops = 0, flops_left = 0;
  int64_t tokens = 0, done = 0;
  for (const Cell& cell : own) {
    ++cells_of_system[cell.system];
    flops += cell_flops(config, cell.system);
    tokens += training_tokens(config, cell.system);
    if (std::filesystem::exists(Workplace::result_json(place.cell(cell.name())))) {
      ++done;
      ++done_of[cell.system];
    } else {
      flops_left += cell_flops(config, cell.system);
    }
  }
  std::string text = fmt::format(
      "study: {} cells{}, {} of them done; in {}\n", all.size(),
      options.parts > 1 ? fmt::format(", {} in part {} of {}", own.size(), options.part, options.parts) : "", done,
      options.out.string());
  text += seeds_line(config);
  text += fmt::format("  {:<40} {:>6} {:>6} {:>10} {:>12}\n", "system", "cells", "done", "tokens", "training FLOPs");
  for (const System& system : systems_of(config)) {
    if (!cells_of_system.contains(system)) continue;
    text += fmt::format("  {:<40} {:>6} {:>6} {:>10} {:>12.3g}\n", system.name(), cells_of_system[system],
                        done_of[system], report::format_short(static_cast<double>(training_tokens(config, system))),
                        cell_flops(config, system));
  }
  text += fmt::format("  in all {} tokens and {:.3g} FLOPs of training, {:.3g} left\n",
                      report::format_short(static_cast<double>(tokens)), flops, flops_left);
  const double rate = measured_rate(place, config);
  text += rate > 0
              ? fmt::format("  time left: about {}, at {:.3g} FLOPs a second as measured on the cells that are done\n",
                            format_duration(flops_left / rate), rate)
              : "  time: not known before the first cell is done\n";
  text += fmt::format(
      "  disk: {} of models and saved states ({}), and the corpus's tokens once and once for each "
      "clustering in use\n",
      format_bytes(disk_bytes(options, own)),
      options.keep_models ? "all models are kept" : "a cell's models go once it is evaluated");
  return text;
}

}  // namespace cbtm::study
