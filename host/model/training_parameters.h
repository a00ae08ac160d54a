#pragma once

#include <array>
#include <span>
#include <vector>

#include "cbtm/device/collectives.h"
#include "cbtm/device/device.h"
#include "cbtm/model/parameter_layout.h"
#include "cbtm/model/spec.h"
#include "cbtm/model/training_model.h"
#include "model/model_weights.h"

namespace cbtm {

/// Bytes of TrainingParameters on each of `devices` devices.
struct ParameterMemory {
  int64_t weights = 0;  ///< float32, and the copy that the products take
  int64_t gradients = 0;
  int64_t moments = 0;
};
ParameterMemory parameter_memory(const ModelSpec& spec, DType dtype, int64_t devices);

/// Weights, gradients and moments of a model in training, in flat buffers on a device.
///
/// A device that trains alone has each of them whole, and, for another type than float32, a working copy of the weights
/// for the products. Of several devices (data parallel, with the optimizer's state sharded: ZeRO stage 1, arXiv
/// 1910.02054) each has all gradients of its own micro-batches and all working weights, but of float32 weights, summed
/// gradients and moments of every bucket of matrices only its share, one part in size() of the bucket, which it alone
/// updates. Biases and norms, which are few, all devices have and update alike.
class TrainingParameters {
 public:
  /// `dtype`: of the weights in products. `group`: null for a device that trains alone.
  TrainingParameters(Device& device, const ModelSpec& spec, DType dtype, Collectives* group);

  /// As the products take them.
  ModelTensors weight_tensors() const;
  ModelTensors gradient_tensors() const;

  /// This device's share; alone: all of it, in the order of ParameterLayout(spec). float32.
  TensorView weights() const { return own(0); }
  TensorView first_moments() const { return own(2); }
  TensorView second_moments() const { return own(3); }
  /// All of this device's gradients, float32 [1, layout().flat_size()].
  TensorView gradients() const {
    return group_ == nullptr ? own(1) : gradients_.view(DType::f32, 1, layout_.flat_size());
  }
  /// Biases' and norms' part of gradients().
  TensorView vector_gradients() const;
  /// Of the buffers on the device; that of the host is ParameterLayout(spec).
  const ParameterLayout& layout() const { return layout_; }

  /// A run of elements of the share, and where they lie on the host (ParameterLayout(spec)).
  struct Piece {
    int64_t own_offset, host_offset, size;
  };
  /// What this device holds. `all_vectors`: biases and norms of every device, not of the first alone.
  std::vector<Piece> pieces(bool all_vectors) const;
  /// Takes the share from whole buffers of the host; of null pointers nothing.
  void load(const float* weights, const float* first_moments, const float* second_moments);
  /// After weights() has been written to: makes the working weights anew, on all devices of the group together.
  void weights_changed();

  /// Begins to add up the gradients of a bucket over the group; nothing alone. From the last layer to the first.
  void start_exchange(int64_t layer);
  /// The same of all that has not begun: embeddings, biases and norms.
  void start_rest_of_exchange();
  /// The gradients added up are there for the operators called from now on, and gradients() is zero again.
  void finish_exchange();

  /// result (float64 [1, 1]) = this device's part of the square sum of the summed gradients.
  void own_square_sum(TensorView result);
  /// The sum of `result` over the group.
  void add_up(TensorView result);
  /// AdamW on the share, then the working weights of all. `square_sum`: of the whole. Zeroes the gradients.
  void update(const OptimizerOptions& options, ConstTensorView square_sum);

 private:
  TensorView own(int64_t part) const { return own_.view(DType::f32, 1, own_size_, part * own_size_ * 4); }
  TensorView own_part(TensorView whole, const ParameterBucket& bucket) const;
  TensorView working() const;
  TensorView own_working() const;
  /// Makes the working weights of all devices from own_working(), or from weights().
  void gather_weights();

  Device& device_;
  ModelSpec spec_;
  DType dtype_;
  Collectives* group_;
  int64_t devices_;
  ParameterLayout layout_;
  int64_t own_matrices_;  ///< elements of the share that are matrices; biases and norms follow
  int64_t own_size_;
  DeviceBuffer own_;          ///< weights, gradients, first and second moments of the share
  DeviceBuffer gradients_;    ///< of several devices
  DeviceBuffer working_;      ///< of several devices, or of another type than float32
  DeviceBuffer own_working_;  ///< of both: the share, on its way to the others
  size_t exchanges_begun_ = 0;
};

}  // namespace cbtm
