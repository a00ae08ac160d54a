// Every number of the page is found again in study.json, and every number of study.json is computed again from the
// documents' losses, by code that shares nothing with what made them.

#include "cbtm/study/page.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <map>
#include <optional>
#include <regex>
#include <string>
#include <vector>

#include "cbtm/base/philox.h"
#include "cbtm/study/study_json.h"
#include "tests/report/well_formed.h"
#include "tests/study/page_check.h"
#include "tests/study/synthetic.h"

namespace cbtm::study {
namespace {

struct Example {
  Example() {
    config.clusterings.push_back({.kind = Clustering::unbalanced});
    config.larger = {.shape = {.preset = "micro"}, .axis = {{1, 2}, {16384}}};
    config.learning_rates = {0.003, 0.006};
    check_config(config);
    std::vector<CellResult> cells = synthetic_results(config, as_published);
    PhiloxStream random(3, 0);
    std::map<std::string, CellTimes> measured;
    for (CellResult& cell : cells) {
      measured[cell.cell.name()] = {10 + random.next_uniform(), 5, 2, "cpu", 1};
      if (cell.cell.system.larger || cell.cell.system.budget != 16384) continue;
      const bool dense = cell.cell.system.kind == SystemKind::dense;
      if (!dense && cell.cell.system.clustering != Clustering::balanced) continue;
      TaskScore task{.task = "a <task>", .router = dense ? "" : "tfidf", .top_k = cell.cell.system.k};
      for (int line = 0; line < 30; ++line) task.right.push_back(random.next_uniform() < (dense ? 0.4 : 0.7) ? 1 : 0.5);
      double sum = 0;
      for (const double right : task.right) sum += right / 30;
      task.accuracies = {sum, sum};
      cell.tasks = {task};
    }
    study = study_json(Results(config, std::move(cells)), {"a missing & named cell"});
    times = study_times_json(config, measured);
    page = study_page(study, times);
  }
  Config config = synthetic_config();
  Json study, times;
  std::string page;
};

const Example& example() {
  static const Example made;
  return made;
}

TEST_CASE("the page is well formed, holds every section, and loads nothing") {
  const std::string& page = example().page;
  CHECK(markup_fault(page) == "");
  for (const char* id : {"clusters", "gain", "mixed", "clusterings", "cost", "matrix", "tasks", "rates", "relations",
                         "settings", "missing"})
    CHECK_MESSAGE(page.find("<section id=\"" + std::string(id) + "\">") != std::string::npos, id);
  CHECK(page.find("a &lt;task&gt;") != std::string::npos);
  CHECK(page.find("a missing &amp; named cell") != std::string::npos);
  for (const char* part : {"<script", "<link", "<img", " src=", "http:", "https:", "url("})
    CHECK_MESSAGE(page.find(part) == std::string::npos, part);
}

TEST_CASE("every number of the page's tables is one of study.json or study-times.json") {
  const size_t checked = check_page_numbers(example().page, example().study, example().times);
  CHECK(checked > 500);
}

TEST_CASE("a number of the page that is not that of the file is found") {
  std::string page = example().page;
  const size_t place = page.find("/perplexity/mean\">") + 18;
  page[place] = page[place] == '9' ? '8' : '9';
  CHECK(page_number_faults(page, example().study, example().times).size() == 1);
}

TEST_CASE("entries, differences, intervals and best k are computed again from the losses") {
  check_study_numbers(example().study);
}

TEST_CASE("the same results give the same bytes") {
  const Example again;
  CHECK(again.study.dump() == example().study.dump());
  CHECK(again.page == example().page);
}

TEST_CASE("a study whose trainings diverged has a page, too") {
  const Config config = synthetic_config();
  std::vector<CellResult> results;
  for (const Cell& cell : cells_of(config))
    results.push_back(synthetic_result(cell, [](const Cell& of, const std::string&, int64_t) {
      return of.system.kind == SystemKind::dense || of.system.k == 2 ? 1e6 : 5.0;  // e^1e6 is no number
    }));
  const Json study = study_json(Results(config, std::move(results)), {});
  CHECK(markup_fault(study_page(study, study_times_json(config, {}))) == "");
}

TEST_CASE("a study without a cell has a page, too") {
  const Json study = study_json(Results(synthetic_config(), {}), {"all"});
  const std::string page = study_page(study, study_times_json(synthetic_config(), {}));
  CHECK(markup_fault(page) == "");
  CHECK(page.find("What is missing") != std::string::npos);
}

}  // namespace
}  // namespace cbtm::study
