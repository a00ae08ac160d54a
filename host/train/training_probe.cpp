#include "cbtm/train/training_probe.h"

#include <chrono>

#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/philox.h"

namespace cbtm {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

MicroBatch random_batch(const ProbeShape& shape, uint64_t seed) {
  const std::vector<int32_t> ids = random_tokens(shape.micro_batch_tokens() + 1, shape.vocab_size, seed);
  MicroBatch batch{.ids = {ids.begin(), ids.end() - 1}, .targets = {ids.begin() + 1, ids.end()}};
  for (int64_t s = 0; s <= shape.micro_batch_sequences; ++s)
    batch.offsets.push_back(static_cast<int32_t>(s * shape.sequence_length));
  return batch;
}

}  // namespace

std::vector<int32_t> random_tokens(int64_t count, int64_t vocab_size, uint64_t seed) {
  PhiloxStream random(seed, 0);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) id = static_cast<int32_t>(random.next_below(static_cast<uint64_t>(vocab_size)));
  return ids;
}

StepSeconds time_training_step(std::span<Device* const> devices, DataParallelModel& model, const ProbeShape& shape,
                               int64_t number, bool wait_for_gradients) {
  const DataParallelModel::Phase phase(model, "step");
  std::vector<MicroBatch> batches;
  for (int64_t m = 0; m < shape.micro_batches; ++m)
    batches.push_back(random_batch(shape, shape.seed + static_cast<uint64_t>(number * shape.micro_batches + m)));
  StepSeconds seconds;
  const auto start = Clock::now();
  for (int64_t m = 0; m < shape.micro_batches; ++m)
    model.add_gradients(std::move(batches[static_cast<size_t>(m)]),
                        {.gradient_scale = 1 / static_cast<float>(shape.step_tokens()),
                         .dropout = static_cast<float>(shape.dropout),
                         .seed = shape.seed,
                         .step = static_cast<uint32_t>(number),
                         .first_row = m * shape.micro_batch_tokens(),
                         .dropout_columns = round_up(shape.sequence_length, 16)},
                        m, shape.micro_batches);
  if (wait_for_gradients && devices.size() == 1) {
    devices.front()->synchronize();
    seconds.gradients = seconds_since(start);
  }
  model.finish_step({.step = number + 1, .learning_rate = 1e-5f, .clip_norm = 1});
  seconds.whole = seconds_since(start);
  return seconds;
}

double time_scoring(DataParallelModel& model, const ProbeShape& shape, int64_t number) {
  const std::vector<MicroBatch> batches = {random_batch(shape, shape.seed + static_cast<uint64_t>(number))};
  const auto start = Clock::now();
  model.loss_sum(batches);
  return seconds_since(start);
}

}  // namespace cbtm
