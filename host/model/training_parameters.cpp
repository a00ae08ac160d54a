#include "model/training_parameters.h"

#include <algorithm>
#include <utility>

#include "cbtm/base/error.h"
#include "cbtm/device/optimizer_operators.h"

namespace cbtm {
namespace {

constexpr int64_t kAlignmentElements = 16;

ParameterLayout device_layout(const ModelSpec& spec, int64_t devices) {
  return ParameterLayout(spec, kAlignmentElements * devices);
}

/// Elements of a device's share.
int64_t share(const ParameterLayout& layout, int64_t devices) {
  return layout.matrix_flat_size() / devices + layout.flat_size() - layout.matrix_flat_size();
}

}  // namespace

ParameterMemory parameter_memory(const ModelSpec& spec, DType dtype, int64_t devices) {
  const ParameterLayout layout = device_layout(spec, devices);
  const int64_t whole = layout.flat_size(), own = share(layout, devices);
  const int64_t item = dtype_bytes(dtype);
  ParameterMemory memory{.weights = own * 4, .gradients = own * 4, .moments = 2 * own * 4};
  if (devices > 1) memory.gradients += whole * 4;
  if (devices > 1 || dtype != DType::f32) memory.weights += whole * item;
  if (devices > 1 && dtype != DType::f32) memory.weights += own * item;
  return memory;
}

TrainingParameters::TrainingParameters(Device& device, const ModelSpec& spec, DType dtype, Collectives* group)
    : device_(device),
      spec_(spec),
      dtype_(dtype),
      group_(group),
      devices_(group == nullptr ? 1 : group->size()),
      layout_(device_layout(spec, devices_)),
      own_matrices_(layout_.matrix_flat_size() / devices_),
      own_size_(share(layout_, devices_)),
      own_(device.allocate(4 * own_size_ * 4, "weights, gradients and moments")) {
  const int64_t whole = layout_.flat_size(), item = dtype_bytes(dtype);
  if (group != nullptr) gradients_ = device.allocate(whole * 4, "gradients");
  if (group != nullptr || dtype != DType::f32)
    working_ = device.allocate(whole * item, "the working copy of the weights");
  if (group != nullptr && dtype != DType::f32)
    own_working_ = device.allocate(own_size_ * item, "the working copy of the weights");
  for (int64_t part = 0; part < 4; ++part) device.fill_zero(own(part));
  if (group == nullptr) return;
  device.fill_zero(gradients());
  device.fill_zero(working());
}

TensorView TrainingParameters::working() const {
  return working_.data() == nullptr ? TensorView() : working_.view(dtype_, 1, layout_.flat_size());
}
TensorView TrainingParameters::own_working() const {
  return own_working_.data() == nullptr ? TensorView() : own_working_.view(dtype_, 1, own_size_);
}

ModelTensors TrainingParameters::weight_tensors() const {
  const TensorView matrices = working() ? working() : weights();
  void* vectors = weights().as<float>() + own_matrices_;  // norms stay float32
  void* biases = dtype_ == DType::f32
                     ? nullptr
                     : static_cast<char*>(matrices.data) + layout_.matrix_flat_size() * dtype_bytes(dtype_);
  return {spec_, layout_, matrices.data, matrices.dtype, vectors, biases};
}

ModelTensors TrainingParameters::gradient_tensors() const {
  return {spec_, layout_, gradients().data, DType::f32, vector_gradients().data};
}

TensorView TrainingParameters::vector_gradients() const {
  return gradients().column_range(layout_.matrix_flat_size(), layout_.flat_size() - layout_.matrix_flat_size());
}

/// Of a whole share, the part that lies in a bucket.
TensorView TrainingParameters::own_part(TensorView whole, const ParameterBucket& bucket) const {
  return whole.column_range(bucket.offset / devices_, bucket.size / devices_);
}

std::vector<TrainingParameters::Piece> TrainingParameters::pieces(bool all_vectors) const {
  const ParameterLayout host(spec_);
  const int64_t rank = group_ == nullptr ? 0 : group_->rank();
  std::vector<Piece> pieces;
  for (size_t i = 0; i < host.buckets().size(); ++i) {
    const ParameterBucket& there = host.buckets()[i];
    const ParameterBucket& here = layout_.buckets()[i];
    const int64_t size = here.size / devices_, begin = rank * size;
    if (begin < there.size)
      pieces.push_back({here.offset / devices_, there.offset + begin, std::min(size, there.size - begin)});
  }
  if (all_vectors || rank == 0)
    pieces.push_back({own_matrices_, host.matrix_flat_size(), host.flat_size() - host.matrix_flat_size()});
  return pieces;
}

void TrainingParameters::load(const float* weights, const float* first_moments, const float* second_moments) {
  for (const auto& [part, source] : {std::pair{0, weights}, {2, first_moments}, {3, second_moments}})
    if (source != nullptr)
      for (const Piece& piece : pieces(/*all_vectors=*/true))
        device_.copy_to_device(own(part).as<float>() + piece.own_offset, source + piece.host_offset, piece.size * 4);
  weights_changed();
}

void TrainingParameters::weights_changed() {
  if (dtype_ != DType::f32) device_.copy(group_ == nullptr ? working() : own_working(), weights());
  gather_weights();
}

void TrainingParameters::gather_weights() {
  if (group_ == nullptr) return;
  const TensorView share = dtype_ == DType::f32 ? weights() : own_working();
  for (const ParameterBucket& bucket : layout_.buckets())
    group_->all_gather(own_part(share, bucket), working().column_range(bucket.offset, bucket.size));
  if (dtype_ != DType::f32) {
    const int64_t vectors = own_size_ - own_matrices_;
    device_.copy(working().column_range(layout_.matrix_flat_size(), vectors),
                 share.column_range(own_matrices_, vectors));
  }
  group_->join();
}

void TrainingParameters::start_exchange(int64_t layer) {
  if (group_ == nullptr) return;
  const ParameterBucket& bucket = layout_.buckets()[layout_.buckets().size() - ++exchanges_begun_];
  CBTM_ASSERT(bucket.layer == layer, "buckets are exchanged in the order of the backward pass");
  group_->reduce_scatter(gradients().column_range(bucket.offset, bucket.size), own_part(own(1), bucket));
}

void TrainingParameters::start_rest_of_exchange() {
  if (group_ == nullptr || exchanges_begun_ > layout_.buckets().size()) return;
  while (exchanges_begun_ < layout_.buckets().size())
    start_exchange(layout_.buckets()[layout_.buckets().size() - 1 - exchanges_begun_].layer);
  group_->all_reduce(vector_gradients(), own(1).column_range(own_matrices_, own_size_ - own_matrices_));
  ++exchanges_begun_;
}

void TrainingParameters::finish_exchange() {
  if (group_ == nullptr) return;
  start_rest_of_exchange();
  exchanges_begun_ = 0;
  group_->join();
  device_.fill_zero(gradients());
}

void TrainingParameters::own_square_sum(TensorView result) {
  const bool counts_vectors = group_ == nullptr || group_->rank() == 0;
  device_.optimizer_operators().gradient_square_sum(counts_vectors ? own(1) : own(1).column_range(0, own_matrices_),
                                                    result);
}

void TrainingParameters::add_up(TensorView result) {
  if (group_ == nullptr) return;
  group_->all_reduce(result, result);
  group_->join();
}

void TrainingParameters::update(const OptimizerOptions& options, ConstTensorView square_sum) {
  device_.optimizer_operators().adamw({.weights = weights(),
                                       .gradients = own(1),
                                       .first_moments = first_moments(),
                                       .second_moments = second_moments(),
                                       .working_weights = group_ != nullptr ? own_working() : working(),
                                       .gradient_square_sum = square_sum,
                                       .loss_scale = options.loss_scale,
                                       .decayed_count = own_matrices_,
                                       .step = options.step,
                                       .learning_rate = options.learning_rate,
                                       .beta1 = options.beta1,
                                       .beta2 = options.beta2,
                                       .epsilon = options.epsilon,
                                       .weight_decay = options.weight_decay,
                                       .clip_norm = options.clip_norm});
  gather_weights();
}

}  // namespace cbtm
