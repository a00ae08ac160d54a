#include "cbtm/train/data_parallel_model.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "cbtm/base/error.h"
#include "train/device_threads.h"

namespace cbtm {
namespace {

class GroupCopy final : public HostCopy {
 public:
  explicit GroupCopy(std::vector<std::shared_ptr<HostCopy>> parts) : parts_(std::move(parts)) {}
  void wait() override {
    for (const std::shared_ptr<HostCopy>& part : parts_) part->wait();
  }

 private:
  std::vector<std::shared_ptr<HostCopy>> parts_;
};

}  // namespace

DataParallelModel::DataParallelModel(std::span<Device* const> devices, const ModelSpec& spec,
                                     std::span<const float> parameters, int64_t rows, Keep keep, DType dtype,
                                     bool record_passes)
    : devices_(devices.begin(), devices.end()), layout_(spec), models_(devices.size()) {
  if (devices.size() > 1) {
    group_ = devices.front()->connect(devices);
    threads_ = std::make_unique<DeviceThreads>(devices, [this] {
      for (const std::unique_ptr<Collectives>& member : group_) member->abort();
    });
  }
  post_to_all([&](size_t number) {
    models_[number] = std::make_unique<TrainingModel>(*devices_[number], spec, parameters, rows, keep, dtype,
                                                      group_.empty() ? nullptr : group_[number].get());
    models_[number]->record_passes(record_passes);
  });
  wait();
}

DataParallelModel::~DataParallelModel() {
  if (threads_ == nullptr) return;
  threads_.reset();  // before what its tasks use
  group_.clear();    // its operations, and then the operators, before the memory that they write to
  for (Device* device : devices_) {
    try {
      device->synchronize();
    } catch (const Error&) {  // of the failure that ended the training
    }
  }
}

void DataParallelModel::post(size_t number, std::function<void(size_t)> task) {
  if (threads_ == nullptr) return task(number);
  threads_->post(number, [number, task = std::move(task)] { task(number); });
}
void DataParallelModel::post_to_all(const std::function<void(size_t)>& task) {
  for (size_t number = 0; number < devices_.size(); ++number) post(number, task);
}
void DataParallelModel::wait() {
  if (threads_ != nullptr) threads_->wait();
}

void DataParallelModel::begin_phase(const char* name) {
  post_to_all([this, name](size_t number) { devices_[number]->begin_phase(name); });
}
void DataParallelModel::end_phase() {
  post_to_all([this](size_t number) { devices_[number]->end_phase(); });
}

void DataParallelModel::add_gradients(MicroBatch batch, BackwardOptions options, int64_t number, int64_t count) {
  const auto devices = static_cast<int64_t>(devices_.size());
  options.completes_step = number + devices >= count;
  post(static_cast<size_t>(number % devices), [this, batch = std::move(batch), options](size_t device) {
    models_[device]->add_gradients({batch.ids, batch.offsets}, batch.targets, options);
  });
}

bool DataParallelModel::may_stop_before(int64_t number, int64_t count) const {
  return number <= count - static_cast<int64_t>(devices_.size());
}

StepResult DataParallelModel::finish_step(const OptimizerOptions& options) {
  std::vector<StepResult> results(devices_.size());
  post_to_all([&](size_t number) { results[number] = models_[number]->finish_step(options); });
  wait();
  StepResult step = results.front();
  for (size_t number = 1; number < results.size(); ++number) {
    step.loss_sum += results[number].loss_sum;
    std::ranges::transform(step.routing_statistics, results[number].routing_statistics, step.routing_statistics.begin(),
                           std::plus<>());
  }
  return step;
}

double DataParallelModel::loss_sum(const std::vector<MicroBatch>& batches) {
  std::vector<double> losses(batches.size());
  for (size_t i = 0; i < batches.size(); ++i)
    post(i % devices_.size(), [&, i](size_t number) {
      losses[i] = models_[number]->loss_sum({batches[i].ids, batches[i].offsets}, batches[i].targets);
    });
  wait();
  double sum = 0;
  for (const double loss : losses) sum += loss;
  return sum;
}

void DataParallelModel::start_from(const ParameterSource& source) {
  if (const std::span<float> weights = models_.front()->weights_on_host(); !weights.empty()) {
    source(weights);
    models_.front()->weights_changed();
    return;
  }
  std::vector<float> weights(static_cast<size_t>(layout_.flat_size()));
  source(weights);
  restore(weights.data(), nullptr, nullptr);
}

std::span<const float> DataParallelModel::weights_on_host(std::vector<float>& copy) {
  if (const std::span<float> weights = models_.front()->weights_on_host(); !weights.empty()) return weights;
  copy.resize(static_cast<size_t>(layout_.flat_size()));
  post_to_all([&](size_t number) { models_[number]->read_weights(copy); });
  wait();
  return copy;
}

void DataParallelModel::restore(const float* weights, const float* first_moments, const float* second_moments) {
  post_to_all([=, this](size_t number) { models_[number]->restore(weights, first_moments, second_moments); });
  wait();
}

std::shared_ptr<HostCopy> DataParallelModel::start_snapshot(std::span<float> weights, std::span<float> first_moments,
                                                            std::span<float> second_moments) {
  std::vector<std::shared_ptr<HostCopy>> parts(devices_.size());
  post_to_all(
      [&](size_t number) { parts[number] = models_[number]->start_snapshot(weights, first_moments, second_moments); });
  wait();
  return std::make_shared<GroupCopy>(std::move(parts));
}

std::array<const float*, 3> DataParallelModel::host_readable() const {
  if (devices_.size() > 1) return {};
  std::array<const float*, 3> tensors{};
  size_t i = 0;
  for (const TensorView& view :
       {models_.front()->weights(), models_.front()->first_moments(), models_.front()->second_moments()})
    tensors[i++] = static_cast<const float*>(devices_.front()->host_readable(view.data));
  return tensors;
}

}  // namespace cbtm
