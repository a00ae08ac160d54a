#include "cbtm/study/relations.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/markup.h"
#include "study/relation_parts.h"
#include "study/task_comparison.h"

namespace cbtm::study {

std::string tokens_text(int64_t tokens) { return report::format_short(static_cast<double>(tokens)) + " tokens"; }

namespace {

/// Perplexities within one percent count as equal.
const double kOnePercent = std::log(1.01);

std::string against_dense(int64_t k, int64_t budget) {
  return fmt::format("k = {} against dense, {}", k, tokens_text(budget));
}

/// 1: lower than dense with 4 or 16 experts, the more so the larger the budget.
Relation lower_than_dense(const Results& results) {
  RelationParts parts(results, 1,
                      "Ensembles of 4 and of 16 experts have a lower perplexity than the dense model of the same "
                      "compute, and the gap grows with the budget.",
                      "Each k of 4 and 16 in the study: against dense at the largest budget, and the change of that "
                      "difference from the smallest budget to the largest.");
  bool any = false;
  for (const int64_t k : parts.learned_k()) {
    if (k != 4 && k != 16) continue;
    any = true;
    parts.compare(against_dense(k, parts.largest()),
                  {{1, results.learned(k, parts.largest())}, {-1, results.dense(parts.largest())}});
    parts.growth(fmt::format("k = {}: the difference at {} less that at {}", k, tokens_text(parts.largest()),
                             tokens_text(parts.smallest())),
                 k);
  }
  if (!any) parts.lacks("ensembles of 4 or of 16 experts");
  return parts.finish();
}

/// 2: one cluster is the worst number of clusters.
Relation one_is_worst(const Results& results) {
  RelationParts parts(results, 2, "One cluster, the dense model, is the worst k at every budget.",
                      "Every k against dense, at every budget.");
  for (const int64_t budget : results.config().axis.budgets)
    for (const int64_t k : parts.learned_k())
      parts.compare(against_dense(k, budget), {{1, results.learned(k, budget)}, {-1, results.dense(budget)}});
  if (parts.learned_k().empty()) parts.lacks("ensembles");
  return parts.finish();
}

/// The k below `most` of the lowest tune loss at a budget, the dense model's 1 included; of equal ones the smallest.
std::optional<int64_t> best_on_tune(const Results& results, int64_t budget, int64_t most) {
  std::optional<int64_t> best;
  double least = INFINITY;
  for (const int64_t k : results.config().axis.k) {
    const Entry* entry = k < most ? results.learned(k, budget) : nullptr;
    if (entry == nullptr || entry->tune_loss >= least) continue;
    least = entry->tune_loss;
    best = k;
  }
  return best;
}

/// 3: the best k grows with the budget.
Relation best_k_grows(const Results& results) {
  RelationParts parts(results, 3, "The best k grows with the budget; too many clusters hurt at a small one.",
                      "The growth of log2(best k) from the smallest budget to the largest is above 0, and no step "
                      "between budgets is below 0; at the smallest budget the largest k is worse than that of the "
                      "others which is best on the tune documents.");
  const std::vector<BestK> best = best_k(results);
  if (best.size() < 2) {
    parts.lacks("two budgets with all of its k, of which there are several");
    return parts.finish();
  }
  for (const int64_t budget : results.config().axis.budgets)
    if (std::none_of(best.begin(), best.end(), [&](const BestK& one) { return one.budget == budget; }))
      parts.lacks("cells of all k at " + tokens_text(budget));
  const auto steps = [&](const auto& k_of) {
    double least = INFINITY;
    for (size_t i = 1; i < best.size(); ++i)
      least = std::min(least, std::log2(k_of(best[i])) - std::log2(k_of(best[i - 1])));
    return least;
  };
  const auto whole = [&](const auto& k_of) { return std::log2(k_of(best.back())) - std::log2(k_of(best.front())); };
  const auto estimate = [&](const auto& quantity) {
    Estimate result{.value = quantity([](const BestK& one) { return static_cast<double>(one.k); })};
    for (const uint64_t seed : best.front().seeds) {
      const auto place_in = [seed](const BestK& one) { return std::find(one.seeds.begin(), one.seeds.end(), seed); };
      if (std::all_of(best.begin(), best.end(), [&](const BestK& one) { return place_in(one) != one.seeds.end(); }))
        result.by_seed.push_back(quantity([&](const BestK& one) {
          return static_cast<double>(one.by_seed[static_cast<size_t>(place_in(one) - one.seeds.begin())]);
        }));
    }
    std::vector<double> resampled;
    for (size_t r = 0; r < best.front().resampled.size(); ++r)
      resampled.push_back(quantity([r](const BestK& one) { return static_cast<double>(one.resampled[r]); }));
    percentile_interval(resampled, result.low, result.high);
    return result;
  };
  std::string numbers;
  for (const BestK& one : best)
    numbers += fmt::format("{}{} at {}", numbers.empty() ? "" : ", ", one.k, tokens_text(one.budget));
  parts.add({.text = "growth of log2(best k): " + numbers,
             .unit = Unit::plain,
             .estimate = estimate(whole),
             .claim = Claim::above});
  parts.add({.text = "least step of log2(best k) between budgets",
             .unit = Unit::plain,
             .estimate = estimate(steps),
             .claim = Claim::above,
             .bound = -1e-4});  // nearer to 0 than the step between any two k up to 4096
  const int64_t most = results.config().axis.k.back(), budget = parts.smallest();
  // The valid documents that the two are compared on do not choose them.
  const std::optional<int64_t> other = best_on_tune(results, budget, most);
  if (!other)
    parts.lacks("ensembles at " + tokens_text(budget));
  else
    parts.compare(fmt::format("k = {} against the best smaller k on the tune documents, {}, at {}", most, *other,
                              tokens_text(budget)),
                  {{1, results.learned(most, budget)}, {-1, results.learned(*other, budget)}}, Claim::above);
  return parts.finish();
}

/// 4: the same with larger experts.
Relation larger_experts(const Results& results) {
  RelationParts parts(results, 4, "The same holds for larger experts.",
                      "Every ensemble of the larger shape against the larger dense model, at the largest budget that "
                      "it was trained at.");
  const Axis& axis = results.config().larger.axis;
  bool any = false;
  if (results.config().larger.shape.given())
    for (const int64_t k : axis.k) {
      if (k == 1) continue;
      any = true;
      const int64_t budget = axis.budgets.back();
      const System dense{.larger = true, .budget = budget};
      const System experts{
          .kind = SystemKind::ensemble, .larger = true, .clustering = results.learned_kind(), .k = k, .budget = budget};
      parts.compare("larger: " + against_dense(k, budget), {{1, results.main(experts)}, {-1, results.main(dense)}});
    }
  if (!any) parts.lacks("experts of a larger shape");
  return parts.finish();
}

/// 5: one expert a token beats dense, the more clusters the better.
Relation top_one(const Results& results) {
  RelationParts parts(results, 5,
                      "With one expert for each token an ensemble has a lower perplexity than the dense model at equal "
                      "inference cost, and more clusters are better.",
                      "Top-1 of every k against dense, and of every k against the next smaller one, at the largest "
                      "budget.");
  const Entry* before = nullptr;
  for (const int64_t k : parts.learned_k()) {
    const Entry* entry = parts.tfidf(k, 1);
    parts.compare("top-1, " + against_dense(k, parts.largest()), {{1, entry}, {-1, results.dense(parts.largest())}});
    if (before != nullptr)
      parts.compare(fmt::format("top-1, k = {} against k = {}", k, before->system.k), {{1, entry}, {-1, before}});
    before = entry;
  }
  return parts.finish();
}

/// 6: a few experts nearly equal all.
Relation few_experts_suffice(const Results& results) {
  RelationParts parts(results, 6, "Two to four experts for each token nearly equal all of them.",
                      "Top-4 (top-2 where k is 4 or less) against all experts at the largest budget: less than 1 % "
                      "worse.");
  for (const int64_t k : parts.learned_k()) {
    if (k <= 2) continue;
    const int64_t few = k > 4 ? 4 : 2;
    parts.compare(fmt::format("k = {}: top-{} against all", k, few),
                  {{1, parts.tfidf(k, few)}, {-1, parts.tfidf(k, k)}}, Claim::below, kOnePercent);
  }
  if (parts.learned_k().empty() || parts.learned_k().back() <= 2) parts.lacks("ensembles of more than two experts");
  return parts.finish();
}

/// 7: small experts match a larger dense model for less training.
Relation match_larger(const Results& results) {
  RelationParts parts(results, 7,
                      "16 experts, four of them for each token, match a larger dense model with less training.",
                      "The largest k up to 16 with top-4 against the larger dense model at the largest budget of both: "
                      "at most 1 % worse; training FLOPs of the one over the other below 1.");
  const Config& config = results.config();
  const int64_t k = parts.reference_k();
  if (!config.larger.shape.given() || k == 0) {
    parts.lacks("a larger dense model beside ensembles");
    return parts.finish();
  }
  const int64_t budget = config.larger.axis.budgets.back();
  const Entry* larger = results.main({.larger = true, .budget = budget});
  const int64_t few = std::min<int64_t>(4, k);
  const Entry* experts = parts.tfidf(k, few, budget);
  parts.compare(fmt::format("k = {}, top-{} against {}, {}", k, few, config.larger.shape.name(), tokens_text(budget)),
                {{1, experts}, {-1, larger}}, Claim::below, kOnePercent);
  if (larger == nullptr || experts == nullptr) return parts.finish();
  const double ratio = experts->training_flops / larger->training_flops;
  parts.add({.text = "training FLOPs, ensemble over larger dense",
             .unit = Unit::plain,
             .estimate = {ratio, ratio, ratio, std::vector<double>(larger->seeds.size(), ratio)},
             .claim = Claim::below,
             .bound = 1});
  return parts.finish();
}

/// 8: better in every few-shot task.
Relation few_shot(const Results& results) {
  RelationParts parts(
      results, 8, "16 experts are better than the dense model in every few-shot task.",
      "Accuracy (by the labels' log-probability) of the largest k up to 16 with all experts less that of "
      "dense, for each task.");
  const std::vector<TaskEntry> entries = task_entries(results);
  bool any = false;
  for (const TaskEntry& entry : entries) {
    if (entry.system.kind != SystemKind::ensemble || entry.system.k != parts.reference_k() ||
        entry.top_k != entry.system.k)
      continue;
    for (const TaskEntry& dense : entries) {
      if (dense.system.kind != SystemKind::dense || dense.task != entry.task) continue;
      if (const auto difference = accuracy_difference(results.config(), entry, dense)) {
        any = true;
        parts.add({.text = fmt::format("{}: accuracy, k = {} less dense", entry.task, entry.system.k),
                   .unit = Unit::plain,
                   .estimate = *difference,
                   .claim = Claim::above});
      }
    }
  }
  if (!any) parts.lacks("few-shot tasks");
  return parts.finish();
}

/// 9: upcycling pays for small budgets only.
Relation upcycling(const Results& results) {
  RelationParts parts(results, 9,
                      "A mixture-of-experts model upcycled from the seed is better at a small budget, worse at a large "
                      "one, and finally worse than dense.",
                      "Against the ensemble of the largest k up to 16 at the smallest budget (below 0) and at the "
                      "largest (above 0), and against dense at the largest (above 0).");
  const int64_t k = parts.reference_k();
  const auto& mixtures = results.config().mixtures;
  if (mixtures.experts.empty() || k == 0) {
    parts.lacks("mixture-of-experts models beside ensembles");
    return parts.finish();
  }
  const auto tried = [&](int64_t budget) {
    return std::find(mixtures.budgets.begin(), mixtures.budgets.end(), budget) != mixtures.budgets.end();
  };
  const bool small = tried(parts.smallest()) && parts.smallest() != parts.largest(), large = tried(parts.largest());
  if (!small) parts.lacks("mixture-of-experts models at a small budget");
  if (!large) parts.lacks("mixture-of-experts models at the largest budget");
  for (const int64_t experts : mixtures.experts) {
    const auto moe = [&](int64_t budget) {
      return results.main({.kind = SystemKind::moe, .k = experts, .budget = budget});
    };
    const auto text = [&](const std::string& other, int64_t budget) {
      return fmt::format("{} experts upcycled against {}, {}", experts, other, tokens_text(budget));
    };
    const std::string ensemble = fmt::format("k = {}", k);
    if (small)
      parts.compare(text(ensemble, parts.smallest()),
                    {{1, moe(parts.smallest())}, {-1, results.learned(k, parts.smallest())}});
    if (!large) continue;
    parts.compare(text(ensemble, parts.largest()),
                  {{1, moe(parts.largest())}, {-1, results.learned(k, parts.largest())}}, Claim::above);
    parts.compare(text("dense", parts.largest()), {{1, moe(parts.largest())}, {-1, results.dense(parts.largest())}},
                  Claim::above);
  }
  return parts.finish();
}

/// 10: learned clusters beat random ones, and balancing helps.
Relation clusterings(const Results& results) {
  RelationParts parts(
      results, 10, "Random clusters are clearly worse than learned ones; balancing helps, the more so for large k.",
      "At the largest budget of each clustering: random against learned for every k; unbalanced against "
      "balanced for every k, and that difference at the largest k less that at the smallest (all above "
      "0).");
  parts.against_learned(Clustering::random);
  if (results.learned_kind() == Clustering::balanced) {
    const std::vector<Contrast> differences = parts.against_learned(Clustering::unbalanced);
    if (differences.size() >= 2) {
      std::vector<Term> terms = differences.back().terms;
      for (const Term& term : differences.front().terms) terms.push_back({-term.factor, term.entry});
      parts.compare(
          fmt::format("unbalanced against balanced: k = {} less k = {}", differences.back().k, differences.front().k),
          terms, Claim::above);
    } else {
      parts.lacks("unbalanced clusterings of two k");
    }
  } else {
    parts.lacks("balanced clusters as its first k-means");
  }
  return parts.finish();
}

/// 11: found domains beat given ones.
Relation found_domains(const Results& results) {
  RelationParts parts(results, 11, "Clusters found by k-means are better than the corpus's own domains.",
                      "Domains weighed by the posterior against learned clusters of the same k, at the largest budget "
                      "(above 0).");
  parts.against_learned(Clustering::domains);
  return parts.finish();
}

/// 12: eight experts after a brief training.
Relation brief_training(const Results& results) {
  RelationParts parts(results, 12, "After a brief training 8 clusters are better than one (published: −3.8 %).",
                      "k = 8 against dense at the smallest budget.");
  const std::vector<int64_t> k = parts.learned_k();
  if (std::find(k.begin(), k.end(), 8) == k.end())
    parts.lacks("ensembles of 8 experts");
  else
    parts.compare(against_dense(8, parts.smallest()),
                  {{1, results.learned(8, parts.smallest())}, {-1, results.dense(parts.smallest())}});
  return parts.finish();
}

}  // namespace

std::vector<Relation> relations_of(const Results& results) {
  std::vector<Relation> relations;
  for (const auto relation :
       {lower_than_dense, one_is_worst, best_k_grows, larger_experts, top_one, few_experts_suffice, match_larger,
        few_shot, upcycling, clusterings, found_domains, brief_training})
    relations.push_back(relation(results));
  return relations;
}

}  // namespace cbtm::study
