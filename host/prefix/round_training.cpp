#include "prefix/round_training.h"

#include <algorithm>
#include <cmath>

#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/error.h"
#include "cbtm/base/philox.h"
#include "cbtm/base/signals.h"

namespace cbtm {
namespace {

constexpr int64_t kFailuresInARow = 5;

/// An endless sequence of the documents of a share: each pass in another random order.
class ShareOrder {
 public:
  ShareOrder(std::span<const int64_t> share, uint64_t seed, uint64_t stream)
      : order_(share.begin(), share.end()), place_(order_.size()), random_(seed, stream) {}

  int64_t next() {
    if (place_ == order_.size()) {
      for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[random_.next_below(i)]);
      place_ = 0;
    }
    return order_[place_++];
  }

 private:
  std::vector<int64_t> order_;
  size_t place_;
  PhiloxStream random_;
};

struct Sequences {
  std::vector<int32_t> ids, targets, offsets = {0};

  void add(std::span<const int32_t> prefix, int32_t start) {
    if (prefix.empty()) return;
    ids.push_back(start);
    ids.insert(ids.end(), prefix.begin(), prefix.end() - 1);
    targets.insert(targets.end(), prefix.begin(), prefix.end());
    offsets.push_back(static_cast<int32_t>(ids.size()));
  }
};

}  // namespace

RoundTraining::RoundTraining(Device& device, const ModelSpec& spec, const RoundPlan& plan)
    : device_(device), spec_(spec), plan_(plan) {
  const int64_t steps = plan.rounds * plan.steps;
  settings_ = {.steps = steps,
               .learning_rate = plan.learning_rate,
               .warmup_steps = std::max<int64_t>(1, steps / 20),
               .final_learning_rate = 0.1};
  // float16 would need a loss scale, which small models on short texts gain nothing from.
  dtype_ = device.training_type() == DType::bf16 ? DType::bf16 : DType::f32;
  rows_ = std::min(std::max(plan.prefix_tokens, device.micro_batch_rows()), plan.batch * plan.prefix_tokens);
  Device* const devices[] = {&device};
  keep_ =
      plan_training_memory(devices, spec, {.rows = rows_, .sequence_length = plan.prefix_tokens, .dtype = dtype_}, 0)
          .keep;
}

void RoundTraining::train(ModelState& state, int64_t round, int64_t number, const Prefixes& documents,
                          std::span<const int64_t> share) const {
  constexpr uint64_t kOrderStream = 0x7072'0000'0000'0000;
  TrainingModel model(device_, spec_, state.weights, rows_, keep_, dtype_);
  model.restore(nullptr, state.first_moments.data(), state.second_moments.data());
  ShareOrder order(share, plan_.seed,
                   kOrderStream + (static_cast<uint64_t>(round) << 20) + static_cast<uint64_t>(number));
  int64_t failures = 0;
  for (int64_t s = 1; s <= plan_.steps; ++s) {
    stop_if_requested("training the router's models");
    std::vector<std::span<const int32_t>> batch;
    int64_t targets = 0;
    for (int64_t i = 0; i < plan_.batch; ++i) {
      batch.push_back(documents.of(order.next()));
      targets += static_cast<int64_t>(batch.back().size());
    }
    const int64_t step = round * plan_.steps + s;
    int64_t first_row = 0;
    for (size_t next = 0; next < batch.size();) {
      Sequences pass;
      do pass.add(batch[next++], plan_.start);
      while (next < batch.size() && static_cast<int64_t>(pass.ids.size() + batch[next].size()) <= rows_);
      model.add_gradients({pass.ids, pass.offsets}, pass.targets,
                          {.gradient_scale = 1 / static_cast<float>(targets),
                           .seed = plan_.seed,
                           .step = static_cast<uint32_t>(step),
                           .first_row = first_row,
                           .dropout_columns = round_up(plan_.prefix_tokens, 16),
                           .completes_step = next == batch.size()});
      first_row += static_cast<int64_t>(pass.ids.size());
    }
    const StepResult done = model.finish_step({.step = step,
                                               .learning_rate = static_cast<float>(learning_rate_at(settings_, step)),
                                               .beta1 = static_cast<float>(settings_.beta1),
                                               .beta2 = static_cast<float>(settings_.beta2),
                                               .epsilon = static_cast<float>(settings_.epsilon),
                                               .clip_norm = static_cast<float>(settings_.clip_norm)});
    failures = std::isfinite(done.loss_sum) && std::isfinite(done.gradient_norm) ? 0 : failures + 1;
    if (failures == kFailuresInARow)
      fail("router model {:03}: {} steps in a row without a finite loss; lower --router-learning-rate", number,
           kFailuresInARow);
  }
  const auto bytes = static_cast<int64_t>(state.weights.size() * sizeof(float));
  model.read_weights(state.weights);
  device_.copy_to_host(state.first_moments.data(), model.first_moments().data, bytes);
  device_.copy_to_host(state.second_moments.data(), model.second_moments().data, bytes);
}

}  // namespace cbtm
