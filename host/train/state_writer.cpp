#include "train/state_writer.h"

#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"

namespace cbtm {

StateWriter::~StateWriter() {
  try {
    finish();
  } catch (const std::exception& error) {
    warn(error.what());
  }
}

void StateWriter::finish() {
  if (!writing_.valid()) return;
  writing_.get();
  saved_step_ = writing_step_;
}

void StateWriter::save(const TrainingCounters& counters) {
  finish();
  const DataParallelModel::Phase phase(model_, "checkpoint");
  const int64_t count = model_.layout().flat_size();
  if (const std::array<const float*, 3> tensors = model_.host_readable(); tensors[0] != nullptr) {
    write_training_state(work_directory_, tensors, count, counters, identity_, keep_);
    saved_step_ = counters.step;
    return;
  }
  for (std::vector<float>& copy : copies_) copy.resize(static_cast<size_t>(count));
  std::shared_ptr<HostCopy> copy = model_.start_snapshot(copies_[0], copies_[1], copies_[2]);
  writing_step_ = counters.step;
  writing_ = std::async(std::launch::async, [this, copy = std::move(copy), count, counters] {
    copy->wait();
    write_training_state(work_directory_, {copies_[0].data(), copies_[1].data(), copies_[2].data()}, count, counters,
                         identity_, keep_);
  });
}

}  // namespace cbtm
