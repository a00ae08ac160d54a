#include "cbtm/model/training_model.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/error.h"
#include "cbtm/device/optimizer_operators.h"
#include "model/pass_records.h"
#include "model/training_parameters.h"
#include "model/training_pass.h"
#include "model/training_scratch.h"

namespace cbtm {
namespace {

/// Micro-batches of a step at most: the loss of each stays on the device until the step is finished.
constexpr int64_t kMicroBatchesMax = 65'536;
constexpr int64_t kResultBytes = (2 + kMicroBatchesMax) * 8;

/// Shapes of micro-batches that are kept recorded: a step has two, if its last one is smaller, and where documents do
/// not see each other some more, by how many of them there are.
constexpr size_t kRecordedMax = 8;

/// Takes all memory of the training in one piece; the buffers are carved from it.
void reserve(Device& device, const ModelSpec& spec, int64_t rows, Keep keep, DType dtype, const Collectives* group) {
  constexpr int64_t kAlignment = 256;
  constexpr int64_t kParameterBuffers = 4;
  const ParameterMemory parameters = parameter_memory(spec, dtype, group == nullptr ? 1 : group->size());
  int64_t bytes = parameters.weights + parameters.gradients + parameters.moments + kParameterBuffers * kAlignment;
  for (const int64_t buffer : {activation_bytes(device.model_operators(), spec, rows, keep, dtype), kResultBytes,
                               TrainingPass::token_bytes(rows)})
    bytes += round_up(buffer, kAlignment);
  device.reserve(bytes, "training");
}

}  // namespace

struct TrainingModel::State {
  State(Device& device_, const ModelSpec& spec_, int64_t rows, Keep keep, DType dtype, Collectives* group_)
      : device(device_),
        spec(spec_),
        layout(spec_),
        group(group_),
        parameters((reserve(device_, spec_, rows, keep, dtype, group_), device_), spec_, dtype, group_),
        pass(device_, spec, rows, keep, dtype, parameters),
        results(device_.allocate(kResultBytes, "losses and gradient norm")),
        records(device_, kRecordedMax) {
    ModelOperators& operators = device.model_operators();
    const TrainingScratch scratch = training_scratch(
        operators, spec, {.rows = rows, .sequence_length = std::min(rows, spec.embedding.max_length), .dtype = dtype});
    operators.reserve_scratch(scratch.scratch_bytes, scratch.held_bytes);
  }

  TensorView square_sum() const { return results.view(DType::f64, 1, 1); }
  /// Σ loss of a micro-batch of the step.
  TensorView loss_slot(int64_t micro_batch) const { return results.view(DType::f64, 1, 1, 8 * (1 + micro_batch)); }

  void tune(const PackedTokens& tokens, std::span<const int32_t> targets, BackwardOptions options);
  void gradient_pass(TensorView loss);
  void run_gradient_pass(const PackedTokens& tokens, const BackwardOptions& options);
  double read_loss(int64_t micro_batch) const;

  Device& device;
  ModelSpec spec;
  ParameterLayout layout;
  Collectives* group;
  TrainingParameters parameters;
  TrainingPass pass;
  DeviceBuffer results;       ///< square_sum and loss_slot, one after another
  int64_t micro_batches = 0;  ///< whose gradients have been added since the last step

  /// Everything that the operators of a micro-batch depend on besides what they find in device memory.
  struct PassKey {
    int64_t rows = 0;
    int64_t layout = 0;  ///< of the sequences (ModelOperators::lay_out_sequences)
    float gradient_scale = 1, dropout = 0;
    uint64_t seed = 0;
    int64_t dropout_columns = 0;
    bool operator==(const PassKey&) const = default;
  };
  std::shared_ptr<HostCopy> snapshot;  ///< under way; weights and moments must not change before it is complete
  bool recording = false;              ///< whether passes are recorded
  bool tuned = false;                  ///< the operators have been tried out
  PassRecords<PassKey> records;
};

/// Before the first micro-batch: a pass whose results are thrown away, in which the device may try out its operators.
void TrainingModel::State::tune(const PackedTokens& tokens, std::span<const int32_t> targets, BackwardOptions options) {
  tuned = true;
  ModelOperators& operators = device.model_operators();
  if (!operators.tunes()) return;
  options.completes_step = false;
  pass.load(tokens, targets, &options, recording);
  operators.tune(true);
  try {
    gradient_pass(loss_slot(kMicroBatchesMax));
  } catch (...) {
    operators.tune(false);
    tuned = false;
    device.fill_zero(parameters.gradients());
    throw;
  }
  operators.tune(false);
  device.fill_zero(parameters.gradients());
  if (pass.routing_statistics()) device.fill_zero(pass.routing_statistics());
}

void TrainingModel::State::gradient_pass(TensorView loss) {
  pass.forward();
  pass.loss(loss);
  pass.backward();
}

/// A pass behind which gradients are exchanged layer by layer is not recorded.
void TrainingModel::State::run_gradient_pass(const PackedTokens& tokens, const BackwardOptions& options) {
  if (!recording || (group != nullptr && options.completes_step)) return gradient_pass(loss_slot(micro_batches));
  PassKey key{.rows = tokens.rows(),
              .layout = pass.layout(),
              .gradient_scale = options.gradient_scale,
              .dropout = options.dropout,
              .seed = options.seed,
              .dropout_columns = options.dropout_columns};
  const TensorView loss = loss_slot(kMicroBatchesMax);  // one place whatever the micro-batch's number
  records.run(std::move(key), [&] { gradient_pass(loss); });
  device.copy(loss_slot(micro_batches), loss);
}

double TrainingModel::State::read_loss(int64_t micro_batch) const {
  double sum = 0;
  device.copy_to_host(&sum, loss_slot(micro_batch).data, 8);
  return sum;
}

TrainingModel::TrainingModel(Device& device, const ModelSpec& spec, std::span<const float> parameters, int64_t rows,
                             Keep keep, DType dtype, Collectives* group)
    : state_(std::make_unique<State>(device, spec, rows, keep, dtype, group)) {
  CBTM_ASSERT(device.computes_in(dtype), "the caller asks the device before");
  if (parameters.empty()) return;
  CBTM_ASSERT(static_cast<int64_t>(parameters.size()) == state_->layout.flat_size(), "parameters come in layout order");
  state_->parameters.load(parameters.data(), nullptr, nullptr);
}
TrainingModel::~TrainingModel() = default;

const ModelSpec& TrainingModel::spec() const { return state_->spec; }
const ParameterLayout& TrainingModel::layout() const { return state_->layout; }
TensorView TrainingModel::weights() const { return state_->parameters.weights(); }
TensorView TrainingModel::gradients() const { return state_->parameters.gradients(); }
TensorView TrainingModel::first_moments() const { return state_->parameters.first_moments(); }
TensorView TrainingModel::second_moments() const { return state_->parameters.second_moments(); }

void TrainingModel::add_gradients(const PackedTokens& tokens, std::span<const int32_t> targets,
                                  const BackwardOptions& options) {
  State& s = *state_;
  if (s.micro_batches == kMicroBatchesMax)
    fail("a step of more than {} micro-batches; raise --micro-batch", kMicroBatchesMax);
  if (!s.tuned && s.micro_batches == 0) s.tune(tokens, targets, options);
  s.pass.load(tokens, targets, &options, s.recording);
  s.run_gradient_pass(tokens, options);
  ++s.micro_batches;
}

double TrainingModel::accumulate_gradients(const PackedTokens& tokens, std::span<const int32_t> targets,
                                           const BackwardOptions& options) {
  add_gradients(tokens, targets, options);
  return state_->read_loss(state_->micro_batches - 1);
}

double TrainingModel::loss_sum(const PackedTokens& tokens, std::span<const int32_t> targets) {
  State& s = *state_;
  s.pass.load(tokens, targets, /*options=*/nullptr, s.recording);
  s.pass.forward();
  s.pass.loss(s.loss_slot(s.micro_batches));
  return s.read_loss(s.micro_batches);
}

StepResult TrainingModel::finish_step(const OptimizerOptions& options) {
  State& s = *state_;
  const TensorView square_sum = s.square_sum();
  const Device::Phase phase(s.device, "optimizer");
  if (s.snapshot != nullptr) {
    s.snapshot->release_sources();
    s.snapshot.reset();
  }
  s.parameters.finish_exchange();
  s.parameters.own_square_sum(square_sum);
  if (s.micro_batches > 0)
    s.device.optimizer_operators().require_finite(s.results.view(DType::f64, 1, s.micro_batches, 8), square_sum);
  s.parameters.add_up(square_sum);
  s.parameters.update(options, square_sum);
  std::vector<double> values(static_cast<size_t>(1 + s.micro_batches));
  if (s.group != nullptr) s.group->wait();
  s.device.copy_to_host(values.data(), square_sum.data, static_cast<int64_t>(values.size()) * 8);
  StepResult result{.gradient_norm = std::sqrt(values[0]) / options.loss_scale};
  for (size_t micro_batch = 1; micro_batch < values.size(); ++micro_batch) result.loss_sum += values[micro_batch];
  s.micro_batches = 0;
  if (const TensorView statistics = s.pass.routing_statistics()) {
    result.routing_statistics.resize(static_cast<size_t>(statistics.size()));
    s.device.copy_to_host(result.routing_statistics.data(), statistics.data, statistics.size() * 8);
    s.device.fill_zero(statistics);
  }
  return result;
}

double TrainingModel::optimizer_step(const OptimizerOptions& options) { return finish_step(options).gradient_norm; }

std::shared_ptr<HostCopy> TrainingModel::start_snapshot(std::span<float> weights, std::span<float> first_moments,
                                                        std::span<float> second_moments) {
  const TrainingParameters& own = state_->parameters;
  std::vector<HostCopyPiece> copies;
  for (const auto& [copy, view] : {std::pair{weights, own.weights()},
                                   {first_moments, own.first_moments()},
                                   {second_moments, own.second_moments()}}) {
    CBTM_ASSERT(static_cast<int64_t>(copy.size()) == state_->layout.flat_size(), "a snapshot holds every parameter");
    for (const TrainingParameters::Piece& piece : own.pieces(/*all_vectors=*/false))
      copies.push_back({copy.data() + piece.host_offset, view.as<float>() + piece.own_offset, piece.size * 4});
  }
  state_->snapshot = state_->device.start_copy_to_host(std::move(copies));
  return state_->snapshot;
}

void TrainingModel::read_weights(std::span<float> weights) const {
  for (const TrainingParameters::Piece& piece : state_->parameters.pieces(/*all_vectors=*/false))
    state_->device.copy_to_host(weights.data() + piece.host_offset,
                                state_->parameters.weights().as<float>() + piece.own_offset, piece.size * 4);
}

std::span<float> TrainingModel::weights_on_host() {
  const TensorView weights = state_->parameters.weights();
  if (state_->group != nullptr || state_->device.host_readable(weights.data) == nullptr) return {};
  return {weights.as<float>(), static_cast<size_t>(state_->layout.flat_size())};
}

void TrainingModel::restore(const float* weights, const float* first_moments, const float* second_moments) {
  state_->parameters.load(weights, first_moments, second_moments);
}

void TrainingModel::record_passes(bool wanted) {
  state_->recording = wanted && state_->device.records();
  state_->records.clear();
}

void TrainingModel::weights_changed() { state_->parameters.weights_changed(); }

}  // namespace cbtm
