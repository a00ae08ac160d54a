#include "commands/print_results.h"

#include <fmt/format.h>

#include <cmath>

#include "cbtm/base/foreign_file.h"
#include "cbtm/base/progress.h"

namespace cbtm {

void print_clusters(const ClusterManifest& clusters) {
  fmt::print("{:>7} {:>10} {:>12} {:>7} {:>6}  top terms\n", "cluster", "documents", "tokens", "valid", "tune");
  for (size_t j = 0; j < clusters.sizes.size(); ++j) {
    const ShardSize& size = clusters.sizes[j];
    std::string terms;
    if (j < clusters.domains.size()) {
      for (const std::string& domain : clusters.domains[j]) terms += (terms.empty() ? "[" : ", ") + shown_text(domain);
      terms += "]";
    }
    for (const std::string& term : clusters.top_terms[j]) terms += (terms.empty() ? "" : " ") + term;
    fmt::print("{:>7} {:>10} {:>12} {:>7} {:>6}  {}\n", RunDirectory::cluster_name(static_cast<int64_t>(j)),
               format_count(size.train_documents), format_count(size.train_tokens), size.valid_documents,
               size.tune_documents, terms);
  }
  fmt::print("clustering {}; largest shard {:.2f} times the mean, in tokens; {}{}; {} documents without words\n",
             shown_text(clusters.clustering), clusters.balance,
             std::isnan(clusters.objective) ? "one round" : fmt::format("objective {:.1f}", clusters.objective),
             std::isnan(clusters.duality_gap) ? "" : fmt::format(", duality gap {:.1e}", clusters.duality_gap),
             clusters.documents_without_words);
}

void print_evaluation(const EvaluationSummary& evaluation) {
  fmt::print("perplexity on {} held-out documents, {} tokens (router temperature {})\n",
             format_count(evaluation.documents), format_count(evaluation.tokens), evaluation.router_temperature);
  const auto line = [&](const std::string& name, double perplexity) {
    const double change = 100 * (perplexity / evaluation.dense - 1);
    fmt::print("  {:<18} {:>9.3f}   {}\n", name, perplexity,
               std::isfinite(change) ? fmt::format("{:>+6.2f} %", change) : "a training has diverged");
  };
  line("seed", evaluation.seed);
  fmt::print("  {:<18} {:>9.3f}\n", "dense baseline", evaluation.dense);
  if (std::isfinite(evaluation.mixture)) line("mixture of experts", evaluation.mixture);
  for (const auto& [top_k, perplexity] : evaluation.top_k)
    line(top_k == evaluation.clusters ? fmt::format("ensemble, all {}", top_k) : fmt::format("ensemble, top-{}", top_k),
         perplexity);
}

}  // namespace cbtm
