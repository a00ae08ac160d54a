#pragma once

#include <vector>

#include "cbtm/dataset/indexed_dataset.h"
#include "cbtm/train/data_parallel_model.h"
#include "cbtm/train/token_stream.h"
#include "cbtm/train/trainer.h"

namespace cbtm {

/// Sequences of a micro-batch: what the settings say, or `wanted`, and with several devices the same for all, as far as
/// the batch can be divided. Throws a usage Error if there are more devices than sequences.
int64_t choose_micro_batch(const TrainingSettings& settings, int64_t devices, int64_t wanted);

/// The sequences first .. first + count of the batch of step `step` (from 1), or as far as the batch goes.
MicroBatch training_batch(TokenStream& stream, const TrainingSettings& settings, int64_t step, int64_t first,
                          int64_t count);

/// Held-out documents, a batch each, cut at sequence_length targets: all of them, or as many, evenly spread over the
/// shards and within them, as hold about 16,384 tokens.
std::vector<MicroBatch> held_out_documents(const std::vector<IndexedDataset>& datasets, int64_t sequence_length);

}  // namespace cbtm
