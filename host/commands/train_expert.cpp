#include "cbtm/base/error.h"
#include "cbtm/base/signals.h"
#include "cbtm/device/open_device.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/pipeline/corpus_stages.h"
#include "cbtm/run/cluster_manifest.h"
#include "cbtm/run/stage_summary.h"
#include "commands/commands.h"
#include "commands/mixture_flags.h"
#include "commands/training_flags.h"

namespace cbtm {

int run_train_expert(int argc, char** argv) {
  CommandLine line(
      "train_expert", "train one expert on its own shard",
      {"cbtm train_expert --shard 3                        (in a directory that holds run/)",
       "cbtm train_expert --run run/ --shard 3 --tokens 40000000 --learning-rate 1e-3",
       "cbtm train_expert --run run/ --baseline            (the dense model of equal compute)",
       "cbtm train_expert --run run/ --moe --moe-experts 8 (a mixture of experts of equal tokens)",
       "cbtm train_expert --run run/ --all                 (one after another; on a cluster, one job a shard)",
       "cbtm train_expert --run run/ --all --device cuda:all     (an expert on each GPU, the baseline on all of them)",
       "cbtm train_expert --run run/ --shard 3 --device cuda:0,1 (one expert on two GPUs together)"});
  if (!line.parse(argc, argv)) return kExitSuccess;
  const bool baseline = line.get<bool>("baseline");
  const bool all = line.get<bool>("all");
  const bool moe = line.get<bool>("moe");
  if ((line.given("shard") ? 1 : 0) + (baseline ? 1 : 0) + (moe ? 1 : 0) + (all ? 1 : 0) != 1)
    fail_usage("train_expert: give one of --shard N, --baseline, --moe and --all");
  for (const char* flag : {"moe-experts", "moe-layers", "router-init"})
    if (line.given(flag) && !moe) fail_usage("--{} does nothing without --moe", flag);
  const RunDirectory run(line.path("run"));
  const ClusterManifest clusters = read_clusters(run);
  if (all) refuse_empty_shards(run, clusters);
  prepare_run_directory(run);
  const FileLock lock = lock_shards_for_reading(run);
  const int64_t count = clusters.clusters;
  if (!std::filesystem::exists(run.seed()))
    fail("{}: there is no seed to branch from; run cbtm train_seed --run {} first", run.seed().string(),
         run.root().string());
  const TrainingSettings dense =
      dense_settings(line, ModelCheckpoint::open(run.seed()).spec(), clusters.train_tokens(), count);
  const TrainingSettings expert = expert_settings(dense, count, match_batch(line));
  std::optional<Upcycling> upcycling;
  if (moe) upcycling = upcycling_flags(line, ModelCheckpoint::open(run.seed()).spec());
  const DeviceList devices = open_devices(line.common().device, line.common().profile);
  install_stop_signals();
  const bool redo = line.get<bool>("redo");
  std::vector<std::string> stages;
  if (baseline || all) {
    train_run_branch(devices.all(), run, kBaseline, dense, redo, line.as_typed());
    stages.push_back("baseline");
  }
  if (upcycling) {
    train_run_mixture(devices.all(), run, *upcycling, dense, redo, line.as_typed());
    stages.push_back("moe");
  }
  if (line.given("shard")) {
    const int64_t cluster = line.integer("shard", 0);
    train_run_branch(devices.all(), run, cluster, expert, redo, line.as_typed());
    stages.push_back("expert/" + RunDirectory::cluster_name(cluster));
  }
  if (all) {
    train_run_experts(devices.all(), run, expert, redo, line.as_typed());
    for (int64_t cluster = 0; cluster < count; ++cluster)
      stages.push_back("expert/" + RunDirectory::cluster_name(cluster));
  }
  Json result = Json::object();
  for (const std::string& stage : stages) result[stage] = stage_json(*find_stage(run, stage));
  line.write_json(result);
  return kExitSuccess;
}

}  // namespace cbtm
