#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/signals.h"
#include "cbtm/device/open_device.h"
#include "cbtm/run/stage_summary.h"
#include "commands/commands.h"
#include "commands/corpus_flags.h"
#include "commands/prefix_flags.h"
#include "commands/print_results.h"

namespace cbtm {

int run_cluster(int argc, char** argv) {
  CommandLine line(
      "cluster", "find the domains of a corpus; write router and shards",
      {"cbtm cluster --corpus data/ --k 8 --run run/",
       "cbtm cluster --corpus data/ --k 8 --router prefix --prefix-tokens 256 --router-preset nano --run run/",
       "cbtm cluster --corpus part-*.jsonl.zst --k 32 --tokenizer opt-tokenizer/ --run run/"});
  if (!line.parse(argc, argv)) return kExitSuccess;
  const TokenizerSource tokenizer = tokenizer_source(line);
  const RunDirectory run(line.path("run"));
  prepare_run_directory(run);
  install_stop_signals();
  const FileLock lock = lock_clusters(run);
  const CorpusOptions corpus = corpus_of_run(corpus_options(line), run, line.get<bool>("redo"));
  ClusterOptions options = cluster_options(line, corpus);
  const std::optional<PrefixClusteringOptions> prefix = prefix_clustering_options(line);
  options.allow_empty_shards = true;  // the shards may be looked at, or used for something else than training
  const std::unique_ptr<Device> device = open_device(line.common().device, line.common().profile);
  const bool redo = line.get<bool>("redo");
  if (!line.given("tokenizer") && !find_stage(run, "tokenizer")) say("no --tokenizer: learning one from the corpus");
  make_run_tokenizer(run, tokenizer, corpus, redo, line.as_typed());
  const ClusterManifest clusters = make_run_clusters(*device, run, options, prefix, redo, line.as_typed());
  print_clusters(clusters);
  warn_of_lost_files(clusters.corpus);
  line.write_json(cluster_manifest_json(clusters));
  return kExitSuccess;
}

}  // namespace cbtm
