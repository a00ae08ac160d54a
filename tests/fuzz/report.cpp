// The report of a run directory: run.json, clusters.json, cards, metrics and the results of evaluations.

#include "cbtm/report/report.h"

#include "tests/fuzz/input_files.h"
#include "tests/fuzz/target.h"

namespace cbtm::fuzz {
namespace {

void read(std::string_view input) {
  const InputFiles files(
      input, {"run.json", "clusters.json", "seed/config.json", "seed/expert.json", "seed/metrics.jsonl",
              "baseline/expert.json", "baseline/metrics.jsonl", "experts/000/expert.json", "experts/000/metrics.jsonl",
              "experts/001/expert.json", "experts/001/metrics.jsonl", "evaluation/seed.json",
              "evaluation/baseline.json", "evaluation/ensemble.json", "evaluation/curve.json",
              "shards/000/valid.documents.jsonl", "shards/001/valid.documents.jsonl"});
  write_report(RunDirectory(files.path()));
}

const Registration kRegistration{{"report", read}};

}  // namespace
}  // namespace cbtm::fuzz
