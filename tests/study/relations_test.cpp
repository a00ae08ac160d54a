// Verdicts: the rule itself, and the twelve relations on results made up to hold, to fail and to be undecided.

#include "cbtm/study/relations.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "cbtm/base/error.h"
#include "tests/study/synthetic.h"

namespace cbtm::study {
namespace {

Estimate estimate(double low, double high, std::vector<double> seeds) {
  return {.value = (low + high) / 2, .low = low, .high = high, .by_seed = std::move(seeds)};
}

TEST_CASE("a claim holds, does not hold, or is undecided") {
  CHECK(judge(estimate(-3, -1, {-2, -1.5}), Claim::below, 0) == Verdict::holds);
  CHECK(judge(estimate(1, 3, {2, 1.5}), Claim::below, 0) == Verdict::fails);
  CHECK(judge(estimate(-3, 1, {-2, -1.5}), Claim::below, 0) == Verdict::undecided);  // the interval
  CHECK(judge(estimate(-3, -1, {-2, 0.1}), Claim::below, 0) == Verdict::undecided);  // a seed
  CHECK(judge(estimate(-3, -1, {-2}), Claim::below, 0) == Verdict::undecided);       // one seed is no spread
  CHECK(judge(estimate(1, 3, {2, 1.5}), Claim::above, 0) == Verdict::holds);
  CHECK(judge(estimate(-3, -1, {-2, -1.5}), Claim::above, 0) == Verdict::fails);
  CHECK(judge(estimate(0, 0, {0, 0}), Claim::above, 0) == Verdict::undecided);
  CHECK(judge(estimate(0, 0.5, {0.2, 0.3}), Claim::below, 1) == Verdict::holds);  // another bound
}

TEST_CASE("several findings: all must hold, and one that does not decides") {
  using enum Verdict;
  CHECK(judge_all({holds, holds}) == holds);
  CHECK(judge_all({holds, undecided}) == undecided);
  CHECK(judge_all({holds, undecided, fails}) == fails);
  CHECK(judge_all({}) == undecided);
}

Config full_config() {
  Config config = synthetic_config();
  config.axis.k = {1, 2, 4, 8};
  config.clusterings = {{.kind = Clustering::balanced}, {.kind = Clustering::random}, config.clusterings[2]};
  config.batch_tokens = 8192;
  config.clusterings.push_back({.kind = Clustering::unbalanced});
  config.larger = {.shape = {.preset = "micro"}, .axis = {{1, 2}, {16384}}};
  check_config(config);
  return config;
}

TEST_CASE("results as published: what the study tried holds, and what it lacks is undecided and said") {
  const Config config = full_config();
  const Results results(config, synthetic_results(config, as_published));
  const std::vector<Relation> relations = relations_of(results);
  REQUIRE(relations.size() == 12);
  for (size_t i = 0; i < relations.size(); ++i) CHECK(relations[i].number == static_cast<int64_t>(i + 1));
  const auto verdict = [&](size_t number) {
    std::string shown;
    for (const Finding& finding : relations[number - 1].findings)
      shown +=
          finding.text + ": " + std::to_string(finding.estimate.value) + " " + verdict_name(finding.verdict) + "\n";
    for (const std::string& missing : relations[number - 1].missing) shown += missing + "\n";
    INFO(shown);
    return relations[number - 1].verdict;
  };
  CHECK(verdict(1) == Verdict::holds);
  CHECK(verdict(2) == Verdict::holds);
  CHECK(verdict(3) == Verdict::holds);
  CHECK(verdict(5) == Verdict::holds);
  CHECK(verdict(6) == Verdict::holds);
  CHECK(verdict(7) == Verdict::holds);
  CHECK(verdict(10) == Verdict::holds);
  CHECK(verdict(11) == Verdict::holds);
  CHECK(verdict(4) == Verdict::holds);
  CHECK(verdict(12) == Verdict::holds);
  for (const size_t number : {8, 9}) {
    CHECK(verdict(number) == Verdict::undecided);
    CHECK(relations[number - 1].findings.empty());
    CHECK(!relations[number - 1].missing.empty());
  }
}

TEST_CASE("the other way round, the relations do not hold") {
  const Config config = full_config();
  const LossOf reversed = [](const Cell& cell, const std::string& router, int64_t top_k) {
    return 8 - as_published(cell, router, top_k);
  };
  const Results results(config, synthetic_results(config, reversed));
  const std::vector<Relation> relations = relations_of(results);
  for (const size_t number : {1, 2, 4, 5, 7, 10, 11, 12}) {
    CAPTURE(number);
    CHECK(relations[number - 1].verdict == Verdict::fails);
  }
}

TEST_CASE("differences within the noise are undecided") {
  const Config config = synthetic_config();
  const Results results(config,
                        synthetic_results(config, [](const Cell&, const std::string&, int64_t) { return 3.0; }));
  const std::vector<Relation> relations = relations_of(results);
  CHECK(relations[1].verdict == Verdict::undecided);
  CHECK(relations[5].verdict == Verdict::holds);  // within 1 %: what the claim is
}

TEST_CASE("upcycled mixtures of experts have their relation") {
  Config config = full_config();
  config.mixtures = {.experts = {8}, .budgets = config.axis.budgets};
  const LossOf reversed = [](const Cell& cell, const std::string& router, int64_t top_k) {
    return 8 - as_published(cell, router, top_k);
  };
  const auto relation_of = [&](const LossOf& loss) {
    const Results results(config, synthetic_results(config, loss));
    return relations_of(results)[8];
  };
  const Relation relation = relation_of(as_published);
  CHECK(relation.findings.size() == 3);
  CHECK(relation.verdict == Verdict::holds);
  CHECK(relation_of(reversed).verdict == Verdict::fails);
  // One budget alone does not show that it depends on the budget.
  config.mixtures.budgets = {config.axis.budgets.back()};
  const Relation at_one = relation_of(as_published);
  CHECK(at_one.verdict == Verdict::undecided);
  CHECK(at_one.missing == std::vector<std::string>{"the study has no mixture-of-experts models at a small budget"});
}

TEST_CASE("cells that are missing make no verdict that holds") {
  const Config config = synthetic_config();
  std::vector<CellResult> cells = synthetic_results(config, as_published);
  std::erase_if(cells, [](const CellResult& cell) {
    return cell.cell.system.kind == SystemKind::ensemble && cell.cell.system.k == 2 &&
           cell.cell.system.clustering == Clustering::balanced && cell.cell.system.budget == 8192;
  });
  const Results results(config, std::move(cells));
  const Relation relation = relations_of(results)[1];
  CHECK(relation.verdict == Verdict::undecided);
  REQUIRE(relation.missing.size() == 1);
  CHECK(relation.missing[0] == "not all cells are there: k = 2 against dense, 8.19K tokens");
}

TEST_CASE("nothing at all gives twelve undecided relations") {
  const Results results(synthetic_config(), {});
  const std::vector<Relation> relations = relations_of(results);
  REQUIRE(relations.size() == 12);
  for (const Relation& relation : relations) CHECK(relation.verdict == Verdict::undecided);
  CHECK(!fit_best_k(results));
}

TEST_CASE("the best k of each budget, and the line through them") {
  const Config config = synthetic_config();
  const Results results(config, synthetic_results(config, as_published));
  const std::vector<BestK> best = best_k(results);
  REQUIRE(best.size() == 2);
  CHECK(best[0].k == 2);
  CHECK(best[1].k == 4);
  CHECK(best[0].by_seed == std::vector<int64_t>{2, 2, 2});
  const std::optional<Fit> fit = fit_best_k(results);
  REQUIRE(fit);
  // Through (13, 1) and (14, 2) in powers of two.
  CHECK(fit->slope == doctest::Approx(1));
  CHECK(fit->intercept == doctest::Approx(-12));
  CHECK(std::exp2(fit->intercept + fit->slope * 14) == doctest::Approx(4));
  CHECK(fit->tokens_min == 8192);
  CHECK(fit->tokens_max == 16384);
  CHECK(fit->k_max == 4);
  CHECK(fit->parameters == 1000);
}

TEST_CASE("a learning rate is chosen for each system alone, on the tune documents") {
  Config config = synthetic_config();
  config.learning_rates = {0.003, 0.006};
  const LossOf loss = [](const Cell& cell, const std::string& router, int64_t top_k) {
    const bool dense = cell.system.kind == SystemKind::dense;
    return as_published(cell, router, top_k) + (dense == (cell.learning_rate == 0.003) ? 0.3 : 0.0);
  };
  const Results results(config, synthetic_results(config, loss));
  CHECK(results.dense(16384)->learning_rate == 0.006);
  CHECK(results.learned(4, 16384)->learning_rate == 0.003);
  for (const Results::Sweep& sweep : results.sweeps()) {
    REQUIRE(sweep.losses.size() == 2);
    const bool dense = sweep.system.kind == SystemKind::dense;
    CHECK(sweep.chosen == (dense ? 0.006 : 0.003));
    CHECK(sweep.losses[0].second - sweep.losses[1].second == doctest::Approx(dense ? 0.3 : -0.3));
  }
}

TEST_CASE("cells of different documents are refused") {
  const Config config = synthetic_config();
  std::vector<CellResult> cells = synthetic_results(config, as_published);
  cells[3].documents[0].tokens += 1;
  CHECK_THROWS_WITH_AS(Results(config, std::move(cells)), doctest::Contains("were scored on different documents"),
                       Error);
}

TEST_CASE("a cell's result reads back as it was written, and a damaged one is refused by name") {
  const Config config = synthetic_config();
  const CellResult result = synthetic_result(cells_of(config).back(), as_published);
  const Json json = cell_result_json(result);
  CHECK(cell_result_json(parse_cell_result(json, "result.json")) == json);
  Json damaged = json;
  damaged["scores"][0]["losses"].erase(0);
  CHECK_THROWS_WITH_AS(parse_cell_result(damaged, "result.json"),
                       doctest::Contains("result.json: 'scores[0].losses' has another length than the documents"),
                       Error);
  damaged = json;
  damaged["cell"]["kind"] = "forest";
  CHECK_THROWS_AS(parse_cell_result(damaged, "result.json"), Error);
}

}  // namespace
}  // namespace cbtm::study
