// run.json and clusters.json of a run directory.

#include <vector>

#include "cbtm/run/cluster_manifest.h"
#include "cbtm/run/stage_summary.h"
#include "tests/fuzz/input_files.h"
#include "tests/fuzz/target.h"

namespace cbtm::fuzz {
namespace {

void read_stages(const RunDirectory& run) {
  for (const char* name : {"cluster", "seed", "expert/000"}) {
    const StageSummary wanted{.name = name,
                              .settings = {{"k", 8}, {"nested", {{"a", 1}}}},
                              .inputs = {{"corpus", "hash"}},
                              .command = "cbtm cluster"};
    std::string difference;
    stage_state(run, wanted, difference);
    find_stage(run, name);
  }
  record_stage(run, {.name = "cluster", .settings = Json::object(), .inputs = Json::object(), .command = ""});
}

void read(std::string_view input) {
  const InputFiles files(input, {"run.json", "clusters.json"});
  const RunDirectory run(files.path());
  if (std::filesystem::exists(run.run_json())) read_stages(run);
  if (std::filesystem::exists(run.clusters_json())) read_clusters(run).train_tokens();
}

const Registration kRegistration{{"run_files", read}};

}  // namespace
}  // namespace cbtm::fuzz
