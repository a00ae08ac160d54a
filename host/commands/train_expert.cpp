#include "cbtm/base/error.h"
#include "cbtm/base/signals.h"
#include "cbtm/checkpoint/checkpoint.h"
#include "cbtm/device/open_device.h"
#include "commands/commands.h"
#include "commands/training_flags.h"

namespace cbtm {

int run_train_expert(int argc, char** argv) {
  CommandLine line(
      "train_expert", "train one expert on its own shard",
      {"cbtm train_expert --shard 3                        (in a directory that holds run/)",
       "cbtm train_expert --run run/ --shard 3 --tokens 40000000 --learning-rate 1e-3",
       "cbtm train_expert --run run/ --baseline            (the dense model of equal compute)",
       "cbtm train_expert --run run/ --all                 (one after another; on a cluster, one job a shard)"});
  line.group("Run")("run", "the run directory, with seed and shards", text_flag("run"), "DIR")(
      "shard", "which shard, from 0", integer_flag(), "N")("baseline", "the dense model on all shards", switch_flag())(
      "all", "the baseline and every shard", switch_flag());
  add_training_flags(line);
  add_match_flag(line);
  if (!line.parse(argc, argv)) return kExitSuccess;
  const bool baseline = line.get<bool>("baseline");
  const bool all = line.get<bool>("all");
  if ((line.given("shard") ? 1 : 0) + (baseline ? 1 : 0) + (all ? 1 : 0) != 1)
    fail_usage("train_expert: give one of --shard N, --baseline and --all");
  const RunDirectory run(line.path("run"));
  const Json clusters = read_clusters(run);
  const auto count = clusters["clusters"].get<int64_t>();
  if (!std::filesystem::exists(run.seed()))
    fail("{}: there is no seed to branch from; run cbtm train_seed --run {} first", run.seed().string(),
         run.root().string());
  const TrainingSettings dense =
      dense_settings(line, OptCheckpoint::open(run.seed()).config(), train_tokens(clusters), count);
  const TrainingSettings expert = expert_settings(dense, count, match_batch(line));
  const std::unique_ptr<Device> device = open_device(line.common().device, line.common().profile);
  install_stop_signals();
  const bool redo = line.get<bool>("redo");
  Json result = Json::object();
  const auto train = [&](int64_t cluster) {
    train_run_branch(*device, run, cluster, cluster == kBaseline ? dense : expert, redo, line.as_typed());
    const std::string stage = cluster == kBaseline ? "baseline" : "expert/" + RunDirectory::cluster_name(cluster);
    result[stage] = find_stage(run, stage);
  };
  if (baseline || all) train(kBaseline);
  if (line.given("shard")) train(line.integer("shard", 0));
  for (int64_t cluster = 0; all && cluster < count; ++cluster) train(cluster);
  line.write_json(result);
  return kExitSuccess;
}

}  // namespace cbtm
