#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/markup.h"
#include "report/sections.h"

namespace cbtm::report {
namespace {

double training_tokens(const ModelFacts& model) { return known(model.training.tokens); }

/// Tokens that an evaluation scored; NaN if there is none.
double scored_tokens(const std::optional<EvaluationResult>& evaluation) {
  return evaluation ? known(evaluation->tokens) : NAN;
}

double expert_tokens(const RunFacts& facts) {
  double sum = 0;
  for (const ModelFacts& expert : facts.experts) sum += training_tokens(expert);
  return sum;
}

const SweepEntry* best_entry(const RunFacts& facts) {
  const auto best = std::min_element(facts.sweep.begin(), facts.sweep.end(),
                                     [](const auto& a, const auto& b) { return a.perplexity < b.perplexity; });
  return best == facts.sweep.end() ? nullptr : &*best;
}

std::string verdict(const RunFacts& facts) {
  const SweepEntry* best = best_entry(facts);
  const double dense = facts.dense_perplexity();
  if (best == nullptr) return "The ensemble has not been evaluated yet.";
  const std::string mixed = best->top_k >= facts.k
                                ? fmt::format("all {} experts", facts.k)
                                : fmt::format("{} of {} experts for each token", best->top_k, facts.k);
  const std::string start = fmt::format("With {} the ensemble reaches a perplexity of {} on held-out documents", mixed,
                                        format_perplexity(best->perplexity));
  if (!std::isfinite(dense)) return start + "; there is no dense model to compare it with.";
  const double percent = std::abs(best->perplexity / dense - 1) * 100;
  if (percent < 0.05) return fmt::format("{}: the same as the dense model.", start);
  return fmt::format("{}: {:.1f} % {} than the dense model's {}.", start, percent,
                     best->perplexity < dense ? "lower" : "higher", format_perplexity(dense));
}

/// What a reader must know before comparing the numbers: equal tokens, the same documents, the same router.
std::string fairness(const RunFacts& facts) {
  std::string items;
  const auto item = [&](bool good, const std::string& text) {
    items += fmt::format("<li{}>{}</li>", good ? "" : " class=\"caution\"", text);
  };
  const double dense = training_tokens(facts.baseline), experts = expert_tokens(facts);
  if (std::isfinite(dense) && std::isfinite(experts) && !facts.experts.empty()) {
    const bool whole = static_cast<int64_t>(facts.experts.size()) == facts.k;
    const double ratio = experts / dense;
    const bool equal = whole && std::abs(ratio - 1) < 0.005;
    item(equal, fmt::format("Both branch from the same seed; the dense model was then trained on {} tokens, the {} "
                            "experts together on {}{}.",
                            format_short(dense), facts.experts.size(), format_short(experts),
                            equal ? ": equal compute"
                                  : fmt::format(", {:.2f} times as many: <strong>not equal compute</strong>", ratio)));
  }
  const double seed = training_tokens(facts.seed);
  if (std::isfinite(seed) && seed > 0)
    item(true, fmt::format("The seed itself was trained on {} tokens.", format_short(seed)));
  const double dense_scored = scored_tokens(facts.baseline_evaluation);
  const double ensemble_scored = scored_tokens(facts.ensemble_evaluation);
  if (std::isfinite(ensemble_scored))
    item(true, fmt::format("Scored: {} tokens of {} documents that nothing was trained on.",
                           format_short(ensemble_scored), facts.ensemble_evaluation->documents.size()));
  if (std::isfinite(dense_scored) && std::isfinite(ensemble_scored) && dense_scored != ensemble_scored)
    item(false, fmt::format("<strong>The dense model was scored on {:.0f} tokens, the ensemble on {:.0f}: their "
                            "perplexities cannot be compared.</strong>",
                            dense_scored, ensemble_scored));
  const std::string router = facts.clusters ? facts.clusters->router_hash : "";
  const std::string& evaluated = facts.ensemble_settings().router_hash;
  if (!router.empty() && !evaluated.empty() && router != evaluated)
    item(false,
         "<strong>The ensemble was evaluated with another router than the one that made these clusters.</strong>");
  return items.empty() ? "" : "<ul>" + items + "</ul>\n";
}

}  // namespace

std::string headline_section(const RunFacts& facts) {
  const double dense = facts.dense_perplexity();
  std::string rows;
  const SweepEntry* best = best_entry(facts);
  const auto row = [&](const std::string& name, double perplexity, bool is_best) {
    if (!std::isfinite(perplexity)) return;
    rows += fmt::format("<tr{}><th scope=\"row\">{}</th><td>{}</td><td>{}</td></tr>\n",
                        is_best ? " class=\"best\"" : "", escape(name), format_perplexity(perplexity),
                        name == "dense model" ? "–" : format_change(perplexity / dense));
  };
  row("seed, before branching", facts.seed_perplexity(), false);
  row("dense model", dense, false);
  row("mixture of experts", facts.mixture_perplexity(), false);
  for (const SweepEntry& entry : facts.sweep)
    row("ensemble, " + top_k_name(entry.top_k, facts.k), entry.perplexity, &entry == best);
  std::string html = "<section id=\"result\"><p class=\"verdict\">" + verdict(facts) + "</p>\n";
  if (!rows.empty())
    html += scroll_box("Perplexity of each model",
                       "<table class=\"numbers\"><thead><tr><th scope=\"col\">model</th><th scope=\"col\">perplexity"
                       "</th><th scope=\"col\">against dense</th></tr></thead><tbody>\n" +
                           rows + "</tbody></table>");
  return html + fairness(facts) + "</section>\n";
}

std::string missing_section(const RunFacts& facts) {
  if (facts.missing.empty()) return "";
  std::string items;
  for (const std::string& sentence : facts.missing) items += "<li>" + escape(sentence) + "</li>\n";
  return "<section id=\"missing\"><h2>What is missing</h2>\n<p>The rest is shown.</p><ul>" + items +
         "</ul></section>\n";
}

}  // namespace cbtm::report
