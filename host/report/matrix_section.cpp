#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "report/marks.h"
#include "report/markup.h"
#include "report/sections.h"

namespace cbtm::report {
namespace {

constexpr size_t kColumnsShown = 128;  ///< a larger table would make the page too large to read

using Matrix = std::vector<std::vector<double>>;  ///< [expert][cluster], NaN where there is nothing

/// What is no perplexity is NaN.
Matrix read_matrix(const RunFacts& facts) {
  if (!facts.ensemble_evaluation) return {};
  Matrix matrix = facts.ensemble_evaluation->matrix;
  for (std::vector<double>& row : matrix)
    for (double& value : row)
      if (!(value >= 1)) value = NAN;
  return matrix;
}

size_t column_count(const Matrix& matrix) {
  size_t columns = 0;
  for (const auto& row : matrix) columns = std::max(columns, row.size());
  return columns;
}

double value_at(const Matrix& matrix, size_t expert, size_t cluster) {
  return cluster < matrix[expert].size() ? matrix[expert][cluster] : NAN;
}

/// The row of the lowest perplexity in a column, or the number of rows if the column is empty.
size_t best_expert(const Matrix& matrix, size_t cluster) {
  size_t best = matrix.size();
  for (size_t expert = 0; expert < matrix.size(); ++expert) {
    const double value = value_at(matrix, expert, cluster);
    if (std::isfinite(value) && (best == matrix.size() || value < matrix[best][cluster])) best = expert;
  }
  return best;
}

/// Perplexity of an evaluation on the documents of each cluster, where the clusters of the documents are known.
std::vector<double> by_cluster(const RunFacts& facts, const std::optional<EvaluationResult>& evaluation,
                               size_t columns) {
  if (!evaluation || facts.evaluated_clusters.empty()) return {};
  const std::vector<DocumentResult>& documents = evaluation->documents;
  const std::vector<DocumentResult>& named = facts.ensemble_evaluation->documents;
  if (documents.size() != facts.evaluated_clusters.size()) return {};
  std::vector<double> likelihood(columns, 0.0), tokens(columns, 0.0);
  for (size_t i = 0; i < documents.size(); ++i) {
    const auto cluster = static_cast<size_t>(facts.evaluated_clusters[i]);
    if (cluster >= columns || documents[i].id != named[i].id) return {};
    if (!std::isfinite(documents[i].negative_log_likelihood)) continue;
    likelihood[cluster] += documents[i].negative_log_likelihood;
    tokens[cluster] += static_cast<double>(documents[i].tokens);
  }
  for (size_t j = 0; j < columns; ++j) likelihood[j] = tokens[j] > 0 ? std::exp(likelihood[j] / tokens[j]) : NAN;
  return likelihood;
}

std::string comparison_row(const std::string& name, const std::vector<double>& values) {
  if (values.empty()) return "";
  std::string html = fmt::format("<tr><th scope=\"row\">{}</th>", name);
  for (const double value : values) html += fmt::format("<td>{}</td>", format_perplexity(value));
  return html + "</tr>\n";
}

/// The table; best[j] is the row of the best expert of column j.
std::string heat_table(const RunFacts& facts, const Matrix& matrix, const std::vector<size_t>& best) {
  const size_t columns = best.size();
  double farthest = 1.5;  // colour: none at this many times a column's best and beyond, full at the best
  for (size_t j = 0; j < columns; ++j)
    for (size_t expert = 0; expert < matrix.size(); ++expert)
      if (const double value = value_at(matrix, expert, j); std::isfinite(value))
        farthest = std::max(farthest, value / matrix[best[j]][j]);
  std::string html =
      fmt::format("<table class=\"heat {}\"><thead><tr><th scope=\"col\">expert</th>", columns > 24   ? "many"
                                                                                       : columns > 10 ? "several"
                                                                                                      : "few");
  for (size_t j = 0; j < columns; ++j) html += fmt::format("<th scope=\"col\">{:03}</th>", j);
  html += "</tr></thead>\n<tbody>\n";
  for (size_t expert = 0; expert < matrix.size(); ++expert) {
    html += fmt::format("<tr><th scope=\"row\">{} {:03}</th>", cluster_key(static_cast<int64_t>(expert)), expert);
    for (size_t j = 0; j < columns; ++j) {
      const double value = value_at(matrix, expert, j);
      if (!std::isfinite(value)) {
        html += "<td>–</td>";
        continue;
      }
      const double heat = 1 - std::log(value / matrix[best[j]][j]) / std::log(farthest);
      html += fmt::format("<td{} style=\"--near:{:.2f}\">{}</td>", expert == best[j] ? " class=\"best\"" : "",
                          std::clamp(heat, 0.0, 1.0), format_perplexity(value));
    }
    html += "</tr>\n";
  }
  return html + "</tbody>\n<tbody class=\"compare\">\n" +
         comparison_row("dense", by_cluster(facts, facts.baseline_evaluation, columns)) +
         (facts.mixture_evaluation ? comparison_row("mixture", by_cluster(facts, facts.mixture_evaluation, columns))
                                   : "") +
         comparison_row("ensemble, " + top_k_name(facts.scored_top_k, facts.k),
                        by_cluster(facts, facts.ensemble_evaluation, columns)) +
         "</tbody></table>";
}

}  // namespace

std::string matrix_section(const RunFacts& facts) {
  const Matrix matrix = read_matrix(facts);
  const size_t columns = column_count(matrix);
  if (columns == 0) return "";
  size_t own_best = 0, judged = 0;
  std::vector<size_t> best(columns);
  for (size_t j = 0; j < columns; ++j) {
    best[j] = best_expert(matrix, j);
    judged += best[j] < matrix.size() ? 1 : 0;
    own_best += best[j] == j && j < matrix.size() ? 1 : 0;
  }
  std::string html = "<section id=\"matrix\"><h2>Every expert on every cluster</h2>\n<p>";
  if (columns <= kColumnsShown)
    html +=
        "Perplexity of each expert (row) on held-out documents of each cluster (column). Framed and bold: the best "
        "expert of the column; the deeper the colour, the nearer to it. ";
  html += fmt::format("On {} of {} clusters the best expert is the one trained for it.", own_best, judged);
  if (columns > kColumnsShown)
    return html + fmt::format(" The {} × {} perplexities are in evaluation/ensemble.json.</p></section>\n",
                              matrix.size(), columns);
  return html + "</p>\n" + scroll_box("Perplexity of every expert on every cluster", heat_table(facts, matrix, best)) +
         "</section>\n";
}

}  // namespace cbtm::report
