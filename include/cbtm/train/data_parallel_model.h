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
  std::vector<int32_t> offsets;  ///< as of PackedTokens
};

/// One model in training on one device or several, each of which takes its turn at the micro-batches (TrainingModel
/// says how they come together). One device is called directly, several on a thread each. Not thread-safe.
class DataParallelModel {
 public:
  /// `parameters` in layout order, or none: all weights are 0 until start_from() or restore(); micro-batches of at most
  /// `rows` tokens.
  DataParallelModel(std::span<Device* const> devices, const OptConfig& config, std::span<const float> parameters,
                    int64_t rows, Recompute recompute, DType dtype, bool record_passes);
  DataParallelModel(const DataParallelModel&) = delete;
  DataParallelModel& operator=(const DataParallelModel&) = delete;
  ~DataParallelModel();

  const ParameterLayout& layout() const { return layout_; }
  /// As Device::Phase, of every device.
  class Phase {
   public:
    Phase(DataParallelModel& model, const char* name) : model_(model) { model_.begin_phase(name); }
    Phase(const Phase&) = delete;
    Phase& operator=(const Phase&) = delete;
    ~Phase() { model_.end_phase(); }

   private:
    DataParallelModel& model_;
  };

  /// Micro-batch `number` of a step of `count`, counted from 0, in their order. Does not wait.
  void add_gradients(MicroBatch batch, BackwardOptions options, int64_t number, int64_t count);
  /// Whether a step of `count` micro-batches may be given up before micro-batch `number`: later, devices wait for it.
  bool may_stop_before(int64_t number, int64_t count) const;
  /// As TrainingModel::finish_step, of the whole step.
  StepResult finish_step(const OptimizerOptions& options);
  /// Σ loss over the targets of all batches, without dropout.
  double loss_sum(const std::vector<MicroBatch>& batches);

  /// Takes the weights from `source`, which writes them where they lie if the host can reach them there.
  void start_from(const WeightSource& source);
  /// The weights, layout order: where they lie if the host can read them there, until the next step; else a copy in
  /// `copy`.
  std::span<const float> weights_on_host(std::vector<float>& copy);
  /// As TrainingModel::restore.
  void restore(const float* weights, const float* first_moments, const float* second_moments);
  /// As TrainingModel::start_snapshot.
  std::shared_ptr<HostCopy> start_snapshot(std::span<float> weights, std::span<float> first_moments,
                                           std::span<float> second_moments);
  /// Weights, first and second moments where they lie, if the host can read them there; else null.
  std::array<const float*, 3> host_readable() const;

 private:
  /// Calls task(number) for device `number`, on its thread.
  void post(size_t number, std::function<void(size_t)> task);
  void post_to_all(const std::function<void(size_t)>& task);
  void wait();
  void begin_phase(const char* name);
  void end_phase();

  std::vector<Device*> devices_;
  ParameterLayout layout_;
  std::vector<std::unique_ptr<Collectives>> group_;     ///< of several
  std::vector<std::unique_ptr<TrainingModel>> models_;  ///< one a device
  std::unique_ptr<DeviceThreads> threads_;              ///< of several
};

}  // namespace cbtm
