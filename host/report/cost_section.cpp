#include "report/cost_section.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "cbtm/accounting/inference_cost.h"
#include "cbtm/accounting/model_cost.h"
#include "cbtm/accounting/run_cost.h"
#include "cbtm/base/memory.h"
#include "cbtm/base/progress.h"
#include "report/markup.h"

namespace cbtm::report {
namespace {

constexpr int64_t kRouterDimensions = 100;  ///< of a clustering, unless it was asked for others

std::string table_row(const std::string& name, const std::vector<std::string>& cells) {
  std::string html = "<tr><th scope=\"row\">" + escape(name) + "</th>";
  for (const std::string& cell : cells) html += "<td>" + cell + "</td>";
  return html + "</tr>\n";
}

std::string table(const std::string& label, const std::vector<std::string>& columns, const std::string& rows) {
  if (rows.empty()) return "";
  std::string html = "<table class=\"numbers\"><thead><tr><td></td>";
  for (const std::string& column : columns) html += "<th scope=\"col\">" + column + "</th>";
  return scroll_box(label, html + "</tr></thead><tbody>\n" + rows + "</tbody></table>");
}

std::string flops(double value) { return std::isfinite(value) ? fmt::format("{:.3g}", value) : "–"; }
std::string duration(double seconds) { return std::isfinite(seconds) ? format_duration(seconds) : "–"; }

/// The stages, the experts as one, with what they were computed on.
std::string stages_table(const RunCost& cost) {
  std::string rows;
  double seconds = 0, device_seconds = 0, expert_flops = 0;
  int64_t experts = 0;
  for (const StageCost& stage : cost.stages) {
    const DeviceUse& use = stage.computed_on;
    if (stage.is_expert()) {
      seconds += stage.seconds;
      device_seconds += use.device_seconds;
      expert_flops += stage.flops;
      ++experts;
      continue;
    }
    rows += table_row(stage.name, {duration(stage.seconds),
                                   use.devices < 0 ? "–" : fmt::format("{} × {}", use.devices, escape(use.device)),
                                   duration(use.device_seconds), stage.is_training() ? flops(stage.flops) : ""});
  }
  if (experts > 0)
    rows += table_row(fmt::format("{} experts, one after another", experts),
                      {duration(seconds), "", duration(device_seconds), flops(expert_flops)});
  return table("What each stage took", {"wall-clock", "on", "device time", "training FLOPs"}, rows);
}

std::string side_by_side_table(const RunCost& cost, int64_t k) {
  if (cost.expert_seconds().empty()) return "";
  const std::vector<int64_t> devices = doubling_devices(k);
  std::string rows;
  for (const int64_t count : devices)
    rows += table_row(std::to_string(count), {duration(cost.ensemble_seconds(count))});
  return table("Critical path", {"corpus to evaluated ensemble"}, rows);
}

std::string rates_table(const RunCost& cost, int64_t k) {
  std::string rows;
  for (const UpdateRate& rate : update_rates(cost, doubling_devices(k)))
    rows += table_row(fmt::format("{}, {} device{}", rate.system, rate.devices, rate.devices == 1 ? "" : "s"),
                      {fmt::format("{:.3g}", rate.updates_per_second),
                       rate.measured ? "measured" : "by formula from the measured rate"});
  return table("Optimizer steps a second", {"steps a second", ""}, rows);
}

/// FLOPs and bytes of a generated token, for the dense model and each number of experts that was evaluated.
std::string inference_table(const RunFacts& facts) {
  if (!facts.model) return "";
  const int64_t length = facts.baseline.card ? facts.baseline.card->sequence_length(facts.model->embedding.max_length)
                                             : facts.model->embedding.max_length;
  std::string rows;
  const auto add = [&](const std::string& name, int64_t experts, int64_t active) {
    const InferenceCost one = inference_cost({.model = *facts.model,
                                              .experts = experts,
                                              .active_experts = active,
                                              .router_dimensions = experts > 1 ? kRouterDimensions : 0},
                                             static_cast<double>(length) / 2, WeightFormat::f32, DType::f32);
    rows += table_row(
        name, {flops(one.flops), flops(one.router_flops), format_short(static_cast<double>(one.active_parameters)),
               format_short(static_cast<double>(one.parameters)), format_bytes(one.active_weight_bytes),
               format_bytes(one.key_value_bytes)});
  };
  add("dense model", 1, 1);
  for (const SweepEntry& entry : facts.sweep)
    if (facts.k > 0) add("ensemble, " + top_k_name(entry.top_k, facts.k), facts.k, std::min(entry.top_k, facts.k));
  return table("Cost of a token in inference",
               {"FLOPs", "of the router", "active parameters", "all parameters", "weights read", "cache a token"},
               rows);
}

}  // namespace

std::string cost_section(const RunFacts& facts) {
  std::string html;
  if (facts.run && !facts.run->stages.empty()) {
    const RunCost cost = run_cost(*facts.run, facts.model);
    html += stages_table(cost);
    if (cost.stages_without_devices > 0)
      html +=
          fmt::format("<p>{} of the records do not say what they were computed on.</p>\n", cost.stages_without_devices);
    const std::string path = side_by_side_table(cost, std::max<int64_t>(1, facts.k));
    if (!path.empty())
      html += fmt::format(
          "<h3>Experts side by side</h3>\n<p>Wall-clock time from the corpus to the evaluated ensemble if the experts "
          "had run on so many such devices, one expert on each at a time, from the time that each took. The dense "
          "model took {}.</p>\n{}",
          duration(cost.dense_seconds()), path);
    if (const std::string rates = rates_table(cost, std::max<int64_t>(1, facts.k)); !rates.empty())
      html +=
          "<h3>Update rate</h3>\n<p>Optimizer steps a second, of the dense model and of all experts together. The "
          "exchange between devices that train the dense model together is not counted where it is computed.</p>\n" +
          rates;
  }
  if (const std::string inference = inference_table(facts); !inference.empty())
    html +=
        "<h3>A token in inference</h3>\n<p>By formula, from the model's description, at half the trained length of "
        "context, in float32.</p>\n" +
        inference;
  return html.empty() ? "" : "<section id=\"cost\"><h2>Cost</h2>\n" + html + "</section>\n";
}

}  // namespace cbtm::report
