#include "train/batches.h"

#include <algorithm>
#include <utility>

#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/error.h"

namespace cbtm {
namespace {

constexpr int64_t kValidationTokens = 16'384;

}  // namespace

int64_t choose_micro_batch(const TrainingSettings& settings, int64_t devices, int64_t wanted) {
  const int64_t batch = settings.batch_sequences;
  if (batch < devices)
    fail_usage("a batch of {} sequence{} does not keep {} devices busy; raise --batch-tokens, or name fewer", batch,
               batch == 1 ? "" : "s", devices);
  const bool chosen = settings.micro_batch_sequences > 0;
  const int64_t micro = std::min(chosen ? settings.micro_batch_sequences : wanted, ceil_divide(batch, devices));
  if (devices == 1 || chosen) return micro;
  return ceil_divide(batch, devices * ceil_divide(batch, devices * micro));  // as many turns, as even as can be
}

MicroBatch training_batch(TokenStream& stream, const TrainingSettings& settings, int64_t step, int64_t first,
                          int64_t count) {
  const int64_t length = settings.sequence_length;
  MicroBatch batch{.ids = {}, .targets = {}, .offsets = {0}};
  std::vector<int32_t> sequence(static_cast<size_t>(length) + 1), starts;
  for (int64_t s = first; s < std::min(first + count, settings.batch_sequences); ++s) {
    stream.sequence((step - 1) * settings.batch_sequences + s, length, sequence, starts);
    const auto base = static_cast<int32_t>(batch.ids.size());
    batch.ids.insert(batch.ids.end(), sequence.begin(), sequence.end() - 1);
    batch.targets.insert(batch.targets.end(), sequence.begin() + 1, sequence.end());
    if (settings.attention_within_document)
      for (const int32_t start : starts)
        if (start < length) batch.offsets.push_back(base + start);
    batch.offsets.push_back(base + static_cast<int32_t>(length));
  }
  return batch;
}

std::vector<MicroBatch> held_out_documents(const std::vector<IndexedDataset>& datasets, int64_t sequence_length) {
  const int64_t length_max = sequence_length + 1;
  int64_t tokens = 0;
  for (const IndexedDataset& dataset : datasets)
    for (int64_t s = 0; s < dataset.sequences(); ++s) tokens += std::min(dataset.length(s), length_max);
  const double share =
      std::min(1.0, static_cast<double>(kValidationTokens) / static_cast<double>(std::max<int64_t>(1, tokens)));
  std::vector<MicroBatch> documents;
  double due = 1;  // a document is taken whenever this reaches 1: the first one always
  for (const IndexedDataset& dataset : datasets)
    for (int64_t s = 0; s < dataset.sequences(); ++s, due += share) {
      if (due < 1) continue;
      due -= 1;
      std::vector<int32_t> ids = dataset.sequence(s);
      ids.resize(std::min(ids.size(), static_cast<size_t>(length_max)));
      if (ids.size() < 2) continue;
      documents.push_back({.ids = {ids.begin(), ids.end() - 1},
                           .targets = {ids.begin() + 1, ids.end()},
                           .offsets = {0, static_cast<int32_t>(ids.size()) - 1}});
    }
  return documents;
}

}  // namespace cbtm
