#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/signals.h"
#include "cbtm/device/open_device.h"
#include "commands/commands.h"
#include "commands/corpus_flags.h"
#include "commands/stages.h"

namespace cbtm {

int run_cluster(int argc, char** argv) {
  CommandLine line("cluster", "find the domains of a corpus; write router and shards",
                   {"cbtm cluster --corpus data/ --k 8 --run run/",
                    "cbtm cluster --corpus part-*.jsonl.zst --k 32 --tokenizer opt-tokenizer/ --run run/"});
  if (!line.parse(argc, argv)) return kExitSuccess;
  const RunDirectory run(line.path("run"));
  prepare_run_directory(run);
  install_stop_signals();
  const FileLock lock = lock_clusters(run);
  const CorpusOptions corpus = corpus_options_of_run(line, run, line.get<bool>("redo"));
  ClusterOptions options = cluster_options(line, corpus);
  options.allow_empty_shards = true;  // the shards may be looked at, or used for something else than training
  const std::unique_ptr<Device> device = open_device(line.common().device, line.common().profile);
  const bool redo = line.get<bool>("redo");
  if (!line.given("tokenizer") && find_stage(run, "tokenizer").is_null())
    say("no --tokenizer: learning one from the corpus");
  run_tokenizer_stage(run, line, corpus, redo);
  const Json clusters = run_cluster_stage(*device, run, line, options, redo);
  print_clusters(clusters);
  warn_of_lost_files(clusters.value("corpus", Json()));
  line.write_json(clusters);
  return kExitSuccess;
}

}  // namespace cbtm
