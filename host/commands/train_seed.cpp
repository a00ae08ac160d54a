#include "cbtm/base/error.h"
#include "cbtm/base/signals.h"
#include "cbtm/device/open_device.h"
#include "cbtm/run/cluster_manifest.h"
#include "cbtm/run/stage_summary.h"
#include "cbtm/tokenizer/tokenizer.h"
#include "commands/commands.h"
#include "commands/training_flags.h"

namespace cbtm {

int run_train_seed(int argc, char** argv) {
  CommandLine line("train_seed", "train (or take over) the model that all experts branch from",
                   {"cbtm train_seed --run run/ --preset mini --tokens 20000000",
                    "cbtm train_seed --run run/ --init opt-125m/      (taken over as it is)",
                    "cbtm train_seed --run new/ --init-average run/experts/ --expert-weights posterior:prior.json"});
  if (!line.parse(argc, argv)) return kExitSuccess;
  const RunDirectory run(line.path("run"));
  const ClusterManifest clusters = read_clusters(run);
  prepare_run_directory(run);
  const FileLock lock = lock_shards_for_reading(run);
  const SeedSource source = seed_source(line, clusters.vocab_size);
  TrainingSettings settings = dense_settings(line, source_spec(source), clusters.train_tokens(), 1);
  if (!source.is_new() && !line.given("steps") && !line.given("tokens")) {
    for (const char* flag : {"learning-rate", "warmup", "final-learning-rate", "weight-decay", "clip", "dropout",
                             "batch-tokens", "attention-within-document"})
      if (line.given(flag))
        fail_usage("--{} is of a training, but without --tokens or --steps the model is taken over as it is", flag);
    settings.steps = 0;
  }
  const DeviceList devices = open_devices(line.common().device, line.common().profile);
  install_stop_signals();
  train_run_seed(devices.all(), run, source, settings, line.get<bool>("redo"), line.as_typed());
  line.write_json(stage_json(*find_stage(run, "seed")));
  return kExitSuccess;
}

}  // namespace cbtm
