#include <fmt/format.h>

#include <cmath>

#include "cbtm/base/progress.h"
#include "report/json_lookup.h"
#include "report/marks.h"
#include "report/markup.h"
#include "report/scatter_chart.h"
#include "report/sections.h"

namespace cbtm::report {
namespace {

/// The first `limit` top terms of a cluster, escaped.
std::string terms(const RunFacts& facts, size_t cluster, size_t limit) {
  if (!facts.clusters || cluster >= facts.clusters->top_terms.size()) return "";
  const std::vector<std::string>& all = facts.clusters->top_terms[cluster];
  std::string result;
  for (size_t i = 0; i < std::min(limit, all.size()); ++i) result += (result.empty() ? "" : " ") + escape(all[i]);
  return result;
}

/// The domains of a cluster, escaped; "" if there are none.
std::string domains(const ClusterManifest& clusters, size_t cluster) {
  constexpr size_t kNamed = 12;
  if (cluster >= clusters.domains.size()) return "";
  const std::vector<std::string>& all = clusters.domains[cluster];
  std::string result;
  for (size_t i = 0; i < std::min(kNamed, all.size()); ++i) result += (i == 0 ? "" : ", ") + escape(all[i]);
  if (all.size() > kNamed) result += fmt::format(" and {} more", all.size() - kNamed);
  return result;
}

std::string how_divided(const ClusterManifest& clusters) {
  const std::string objective = format_number(clusters.objective, 6);
  if (clusters.clustering == "random")
    return fmt::format("random clusters of equal size, whose centres have the objective {}", objective);
  if (clusters.clustering == "domains")
    return fmt::format("clusters by the domains that the corpus names, whose centres have the objective {}", objective);
  if (clusters.clustering == "prefix")
    return fmt::format(
        "clusters by the likelihoods that the prefix router's models give to the first tokens of a document ({} nats "
        "per token in the last round)",
        objective);
  if (clusters.clustering == "unbalanced")
    return fmt::format("plain (unbalanced) k-means with objective {}", objective);
  return fmt::format("{} k-means with objective {} and a relative duality gap of {}", escape(clusters.clustering),
                     objective, format_number(clusters.duality_gap, 2));
}

std::string summary(const ClusterManifest& clusters) {
  std::string html = fmt::format("<p>{} documents", format_whole(known(clusters.documents)));
  const Json& corpus = clusters.corpus;
  if (std::isfinite(number(corpus, {"text_bytes"})))
    html += fmt::format(", {}B of text", format_short(number(corpus, {"text_bytes"})));
  double bad = 0;
  for (const char* kind : {"empty", "invalid_utf8", "broken_lines", "truncated_files"})
    if (const double value = number(corpus, {kind}); std::isfinite(value)) bad += value;
  html += fmt::format("; {} duplicates and {} bad documents left out, {} without words.",
                      format_whole(number(corpus, {"duplicates"})), format_whole(bad),
                      format_whole(known(clusters.documents_without_words)));
  html += fmt::format(
      " Fitted on {} documents and {} terms: tf-idf, SVD to {} dimensions, {}. The largest shard has {} times the mean "
      "in tokens.</p>\n",
      format_whole(known(clusters.fit_documents)), format_whole(known(clusters.terms)),
      format_whole(known(clusters.dimensions)), how_divided(clusters), format_number(clusters.balance, 3));
  return html;
}

/// Domains, then top terms.
std::string described(const RunFacts& facts, size_t cluster, size_t limit) {
  const std::string names = domains(*facts.clusters, cluster);
  return names.empty() ? terms(facts, cluster, limit)
                       : fmt::format("<strong>{}</strong> {}", names, terms(facts, cluster, limit));
}

std::string sizes_table(const RunFacts& facts) {
  const std::vector<ShardSize>& sizes = facts.clusters->sizes;
  if (sizes.empty()) return "";
  double total = 0, largest = 0;
  for (const ShardSize& size : sizes) {
    total += static_cast<double>(size.train_tokens);
    largest = std::max(largest, static_cast<double>(size.train_tokens));
  }
  std::string html =
      "<table><thead><tr><th scope=\"col\">cluster</th><th scope=\"col\">top terms</th><th scope=\"col\" "
      "class=\"right\">documents</th><th scope=\"col\" class=\"right\">tokens</th><th scope=\"col\">share</th><th "
      "scope=\"col\" class=\"right\">held&nbsp;out</th></tr></thead><tbody>\n";
  for (size_t j = 0; j < sizes.size(); ++j) {
    const auto tokens = static_cast<double>(sizes[j].train_tokens);
    html += fmt::format(
        "<tr><th scope=\"row\">{} {:03}</th><td class=\"terms\">{}</td><td class=\"right\">{}</td><td "
        "class=\"right\">{}</td><td class=\"share\">{}<span>{}</span></td><td class=\"right\">{}</td></tr>\n",
        cluster_key(static_cast<int64_t>(j)), j, described(facts, j, 10), format_whole(known(sizes[j].train_documents)),
        format_whole(tokens), share_bar(tokens / largest),
        total > 0 ? fmt::format("{:.1f} %", 100 * tokens / total) : "–", format_whole(known(sizes[j].valid_documents)));
  }
  return scroll_box("Clusters: sizes and top terms", html + "</tbody></table>");
}

std::string map_figure(const RunFacts& facts) {
  std::vector<MapPoint> points;
  for (const MapDocument& document : facts.clusters->map) points.push_back({document.x, document.y, document.cluster});
  if (points.empty()) return "";
  std::string legend;
  for (int64_t cluster = 0; cluster < facts.k; ++cluster)
    legend += fmt::format("<li>{} {:03} <span>{}</span></li>\n", cluster_key(cluster), cluster,
                          terms(facts, static_cast<size_t>(cluster), facts.k > 16 ? 1 : 3));
  return fmt::format(
      "<figure class=\"map\">{}\n<ul class=\"legend\">{}</ul>\n<figcaption>A sample of {} documents, placed by t-SNE: "
      "what lies near is alike; how far apart two groups lie says little. The numbers stand at the middle of their "
      "cluster.</figcaption></figure>\n",
      scatter_svg(points, fmt::format("Map of {} documents in {} clusters", points.size(), facts.k)), legend,
      format_count(static_cast<long long>(points.size())));
}

}  // namespace

std::string corpus_section(const RunFacts& facts) {
  if (!facts.clusters) return "";
  return "<section id=\"corpus\"><h2>How the corpus split</h2>\n" + summary(*facts.clusters) + sizes_table(facts) +
         map_figure(facts) + "</section>\n";
}

}  // namespace cbtm::report
