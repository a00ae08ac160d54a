#include "commands/plan_output.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cbtm/base/memory.h"
#include "cbtm/base/progress.h"

namespace cbtm {
namespace {

/// "12.3M", "4.56e+15" beyond a quadrillion; three significant digits.
std::string short_number(double value) {
  constexpr std::pair<double, const char*> kUnits[] = {{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "K"}};
  if (value >= 1e15) return fmt::format("{:.3g}", value);
  for (const auto& [unit, name] : kUnits)
    if (value >= unit)
      return fmt::format("{:.{}f}{}", value / unit, value >= 100 * unit ? 0 : value >= 10 * unit ? 1 : 2, name);
  return fmt::format("{:.3g}", value);
}

/// A duration with the mark of where it comes from: "1:02:03 m".
std::string marked_duration(double seconds, TimeBasis basis) {
  const char* const mark = basis == TimeBasis::measured   ? "m"
                           : basis == TimeBasis::sampled  ? "s"
                           : basis == TimeBasis::computed ? "c"
                                                          : "r";
  if (basis == TimeBasis::not_known) return "?  ";
  constexpr double kShort = 10;  // seconds
  return fmt::format("{} {}", seconds < kShort ? fmt::format("{:.1f} s", seconds) : format_duration(seconds), mark);
}

const PlannedStage* find_stage(const PlannedSystem& system, const std::string& name) {
  // The stage that trains the system itself has another name in each kind of system.
  const auto found = std::find_if(system.stages.begin(), system.stages.end(), [&](const PlannedStage& stage) {
    return stage.name == name || (name == "training" && stage.name == system.kind);
  });
  return found == system.stages.end() ? nullptr : &*found;
}

class Table {
 public:
  explicit Table(const std::vector<PlannedSystem>& systems) : systems_(systems) {
    for (const PlannedSystem& system : systems) width_ = std::max(width_, system.name.size() + 2);
  }

  template <typename Cell>
  void row(const std::string& name, const Cell& cell) {
    std::string line = fmt::format("{:<26}", name);
    bool any = false;
    for (const PlannedSystem& system : systems_) {
      const std::string text = cell(system);
      any |= !text.empty();
      line += fmt::format("{:>{}}", text, width_);
    }
    if (any) text_ += line + "\n";
  }
  /// A row that systems which cannot be trained here have nothing for.
  template <typename Cell>
  void trained_row(const std::string& name, const Cell& cell) {
    row(name, [&](const PlannedSystem& system) { return system.problem.empty() ? cell(system) : std::string("-"); });
  }
  void title(const std::string& text) { text_ += text + "\n"; }
  const std::string& text() const { return text_; }

 private:
  const std::vector<PlannedSystem>& systems_;
  size_t width_ = 14;
  std::string text_;
};

void add_sizes(Table& table) {
  table.row("", [](const PlannedSystem& system) { return system.name; });
  table.row("parameters",
            [](const PlannedSystem& system) { return short_number(static_cast<double>(system.inference.parameters)); });
  table.row("  of a token", [](const PlannedSystem& system) {
    return short_number(static_cast<double>(system.inference.active_parameters));
  });
  table.row("steps of each model", [](const PlannedSystem& system) { return format_count(system.settings.steps); });
  table.row("tokens a step", [](const PlannedSystem& system) {
    return format_count(system.settings.batch_sequences * system.settings.sequence_length);
  });
  table.row("tokens in all", [](const PlannedSystem& system) { return short_number(system.tokens); });
  table.row("epochs", [](const PlannedSystem& system) { return fmt::format("{:.2f}", system.epochs); });
  table.row("training FLOPs", [](const PlannedSystem& system) { return fmt::format("{:.2e}", system.training_flops); });
  table.trained_row("sequences at a time",
                    [](const PlannedSystem& system) { return format_count(system.shape.micro_batch_sequences); });
  table.trained_row("memory in training",
                    [](const PlannedSystem& system) { return format_bytes(system.shape.memory.total()); });
  table.row("memory in inference", [](const PlannedSystem& system) { return format_bytes(system.inference_bytes); });
  table.row("inference FLOPs a token", [](const PlannedSystem& system) {
    return short_number(system.inference.flops + system.inference.router_flops);
  });
  table.row("disk", [](const PlannedSystem& system) { return format_bytes(system.disk_bytes); });
}

constexpr const char* kStages[] = {"tokenizer", "cluster", "seed", "training", "evaluate"};

void add_times(Table& table, const PlanRequest& request) {
  table.title("time on one device");
  for (const char* name : kStages)
    table.trained_row(std::string("  ") + name, [&](const PlannedSystem& system) {
      const PlannedStage* stage = find_stage(system, name);
      return stage == nullptr ? std::string() : marked_duration(stage->seconds_one, stage->basis_one);
    });
  table.trained_row("  in all",
                    [](const PlannedSystem& system) { return format_duration(system.seconds_one()) + "  "; });
  if (request.devices > 1) {
    table.title(fmt::format("time on {} devices", request.devices));
    for (const char* name : kStages)
      table.trained_row(std::string("  ") + name, [&](const PlannedSystem& system) {
        const PlannedStage* stage = find_stage(system, name);
        return stage == nullptr ? std::string()
                                : marked_duration(stage->seconds_side_by_side, stage->basis_side_by_side);
      });
    table.trained_row("  critical path", [](const PlannedSystem& system) {
      return format_duration(system.seconds_side_by_side()) + "  ";
    });
    table.trained_row("  device time",
                      [](const PlannedSystem& system) { return format_duration(system.device_seconds()) + "  "; });
  }
  if (request.price_per_hour > 0)
    table.trained_row("cost", [&](const PlannedSystem& system) {
      const double seconds = request.devices > 1 ? system.device_seconds() : system.seconds_one();
      return fmt::format("{:.2f}  ", seconds / 3600 * request.price_per_hour);
    });
}

std::string rates_text(const Plan& plan) {
  std::string text = "optimizer steps a second, of the dense model and of all experts together\n";
  std::vector<std::string> systems;
  for (const PlannedRate& rate : plan.update_rates)
    if (std::find(systems.begin(), systems.end(), rate.system) == systems.end()) systems.push_back(rate.system);
  text += fmt::format("{:<26}", "  devices");
  for (const std::string& system : systems) text += fmt::format("{:>14}", system);
  int64_t devices = 0;
  size_t column = 0;
  for (const PlannedRate& rate : plan.update_rates) {
    if (rate.devices != devices) {
      devices = rate.devices;
      column = 0;
      text += fmt::format("\n  {:<24}", devices);
    }
    for (; systems[column] != rate.system; ++column) text += fmt::format("{:>14}", "-");
    text += fmt::format("{:>14}", fmt::format("{:.3g} {}", rate.updates_per_second,
                                              rate.basis == TimeBasis::measured    ? "m"
                                              : rate.basis == TimeBasis::from_rate ? "r"
                                                                                   : "c"));
    ++column;
  }
  return text + "\n";
}

}  // namespace

std::string survey_text(const CorpusSurvey& survey) {
  const std::string documents = survey.whole
                                    ? fmt::format("{} documents, {} of text, counted", format_count(survey.documents),
                                                  format_bytes(survey.text_bytes))
                                    : fmt::format("about {} documents, {} of text, estimated from {} of {} on disk",
                                                  format_count(survey.documents), format_bytes(survey.text_bytes),
                                                  format_bytes(survey.bytes_read), format_bytes(survey.bytes_on_disk));
  const std::string tokenizer = survey.tokenizer_learnt ? " with a tokenizer that was learnt from as many others" : "";
  const bool counted = survey.tokens_error == 0 && survey.whole && !survey.tokenizer_learnt;
  return fmt::format("corpus   {}\ntokens   {}{}\n", documents, format_count(std::llround(survey.tokens)),
                     counted ? ", counted"
                             : fmt::format(", estimated, standard error {}: {} documents were encoded{}",
                                           format_count(std::llround(survey.tokens_error)),
                                           format_count(survey.encoded_documents), tokenizer));
}

std::string plan_text(const Plan& plan, const PlanRequest& request) {
  Table table(plan.systems);
  add_sizes(table);
  add_times(table, request);
  std::string text = table.text();
  text +=
      "  m: a step of this shape was timed, times the steps; s: done for a sample, scaled; c: computed from what was\n"
      "  measured; r: from the given rate; ?: not known, and in no sum (docs/accounting.md says how)\n\n";
  text += rates_text(plan);
  if (request.devices > 1 && !plan.trains_together)
    text +=
        "  on this device one model has one device; experts side by side are jobs of their own (train_expert "
        "--shard)\n";
  if (request.devices > 1 && plan.trains_together && request.link_bytes_per_second == 0)
    text += "  where it is computed for several devices, the exchange of gradients is not counted (--link-rate)\n";
  for (const PlannedSystem& system : plan.systems) {
    if (!system.problem.empty()) text += fmt::format("{} cannot be trained here: {}\n", system.name, system.problem);
    if (system.problem.empty() && system.inference_bytes > plan.free_bytes)
      text += fmt::format("{}: {} do not fit {} in inference; experts take turns there (--memory)\n", system.name,
                          format_bytes(system.inference_bytes), format_bytes(plan.free_bytes));
  }
  return text + fmt::format("\nsuggested: k = {}: {}\n", plan.suggested.k, plan.suggested.reason);
}

}  // namespace cbtm
