#pragma once

#include <string>

#include "cbtm/base/file_lock.h"
#include "cbtm/cluster/cluster_corpus.h"
#include "cbtm/device/device.h"
#include "cbtm/run/run_directory.h"
#include "commands/command_line.h"

namespace cbtm {

/// True if the stage is to be run: its result is not there, or it was made from other settings or inputs and --redo was
/// given. Without --redo the latter is refused, naming what differs. A stage that is done is said to be.
bool stage_is_due(const RunDirectory& run, const StageRecord& wanted, const std::filesystem::path& result, bool redo);

/// Held while tokenizer, router and shards of a run are made. Throws Error if another process makes or uses them.
FileLock lock_clusters(const RunDirectory& run);

/// The tokenizer stage: run/tokenizer is there, copied from --tokenizer, or learnt from the corpus.
void run_tokenizer_stage(const RunDirectory& run, const CommandLine& line, const CorpusOptions& corpus, bool redo);

/// The cluster stage: router, shards, clusters.json. Returns what clusters.json holds.
Json run_cluster_stage(Device& device, const RunDirectory& run, const CommandLine& line, const ClusterOptions& options,
                       bool redo);

/// Throws Error if a shard holds nothing to train on (empty_shards). For commands that train an expert on every shard:
/// `cluster` alone only warns of it.
void refuse_empty_shards(const RunDirectory& run, const Json& clusters);

/// Clusters with sizes and top terms, for people.
void print_clusters(const Json& clusters);

}  // namespace cbtm
