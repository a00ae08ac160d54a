#pragma once

#include <array>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "cbtm/model/training_model.h"

namespace cbtm {

class DeviceThreads;

struct MicroBatch {
  std::vector<int32_t> ids, targets;
  std::vector<int32_t> offsets;  ///< as in PackedTokens
};

/// One model in training on one or several devices. Several devices take turns at the micro-batches (see
/// TrainingModel), and each has a thread. One device is called directly. Not thread-safe.
class DataParallelModel {
 public:
  /// `parameters` are in layout order, or empty: then all weights are 0 until start_from() or restore(). Micro-batches
  /// have at most `rows` tokens.
  DataParallelModel(std::span<Device* const> devices, const ModelSpec& spec, std::span<const float> parameters,
                    int64_t rows, Keep keep, DType dtype, bool record_passes);
  DataParallelModel(const DataParallelModel&) = delete;
  DataParallelModel& operator=(const DataParallelModel&) = delete;
  ~DataParallelModel();

  const ParameterLayout& layout() const { return layout_; }
  /// A Device::Phase on every device.
  class Phase {
   public:
    Phase(DataParallelModel& model, const char* name) : model_(model) { model_.begin_phase(name); }
    Phase(const Phase&) = delete;
    Phase& operator=(const Phase&) = delete;
    ~Phase() { model_.end_phase(); }

   private:
    DataParallelModel& model_;
  };

  /// Adds micro-batch `number`, counted from 0, of a step of `count`. Call in order. Does not wait.
  void add_gradients(MicroBatch batch, BackwardOptions options, int64_t number, int64_t count);
  /// Whether a step of `count` micro-batches may be abandoned before micro-batch `number`. Later the devices wait for
  /// it.
  bool may_stop_before(int64_t number, int64_t count) const;
  /// As TrainingModel::finish_step, for the whole step.
  StepResult finish_step(const OptimizerOptions& options);
  /// The sum of the losses over the targets of all batches, without dropout.
  double loss_sum(const std::vector<MicroBatch>& batches);

  /// Takes the weights from `source`. If the host can reach the device's memory, `source` writes them there directly.
  void start_from(const ParameterSource& source);
  /// The weights in layout order. If the host can read the device's memory this is a view of it, valid until the next
  /// step; otherwise the weights are copied into `copy`.
  std::span<const float> weights_on_host(std::vector<float>& copy);
  /// As TrainingModel::restore.
  void restore(const float* weights, const float* first_moments, const float* second_moments);
  /// As TrainingModel::start_snapshot.
  std::shared_ptr<HostCopy> start_snapshot(std::span<float> weights, std::span<float> first_moments,
                                           std::span<float> second_moments);
  /// Weights, first and second moments in the device's memory, if the host can read it; else null.
  std::array<const float*, 3> host_readable() const;

 private:
  /// Runs task(number) on the thread of device `number`.
  void post(size_t number, std::function<void(size_t)> task);
  void post_to_all(const std::function<void(size_t)>& task);
  void wait();
  void begin_phase(const char* name);
  void end_phase();

  std::vector<Device*> devices_;
  ParameterLayout layout_;
  std::vector<std::unique_ptr<Collectives>> group_;     ///< empty for one device
  std::vector<std::unique_ptr<TrainingModel>> models_;  ///< one per device
  std::unique_ptr<DeviceThreads> threads_;              ///< null for one device
};

}  // namespace cbtm
