#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <tuple>

#include "cbtm/accounting/model_cost.h"
#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/progress.h"
#include "cbtm/plan/measured_times.h"
#include "cbtm/train/training_probe.h"

namespace cbtm {
namespace {

constexpr int64_t kStepsMax = 5;
/// Of a device's peak, what trainings reach at least, about: for deciding what is too long to be timed.
constexpr double kReachedFraction = 0.3;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

class ProbingTimer final : public TrainingTimer {
  /// Parameters, sequence length, sequences of a micro-batch, and what is kept.
  using Key = std::tuple<int64_t, int64_t, int64_t, Keep>;

 public:
  ProbingTimer(std::span<Device* const> devices, double seconds) : devices_(devices), seconds_(seconds) {}

  TrainingTime time(const ModelSpec& spec, const TrainingSettings& settings, const ChosenShape& shape) override {
    const Key key{total_parameters(spec), settings.sequence_length, shape.micro_batch_sequences, shape.memory.keep};
    if (const auto known = times_.find(key); known != times_.end()) return known->second;
    const int64_t sequences = affordable_sequences(spec, settings, shape.micro_batch_sequences);
    say(fmt::format("timing {} parameters, {} x {} tokens on {}", format_count(total_parameters(spec)), sequences,
                    settings.sequence_length, devices_.front()->description()));
    return times_[key] = probe(spec, settings, shape, sequences);
  }

  std::optional<double> group_step(const ModelSpec& spec, const TrainingSettings& settings) override {
    if (devices_.size() == 1) return std::nullopt;
    const ChosenShape shape = choose_training_shape(devices_, spec, settings, training_host_memory(devices_, 0));
    const Key key{total_parameters(spec), settings.sequence_length, shape.micro_batch_sequences, shape.memory.keep};
    const auto of_batch = std::pair(key, settings.batch_sequences);
    if (const auto known = group_steps_.find(of_batch); known != group_steps_.end()) return known->second;
    const ProbeShape probe = probe_shape(spec, settings, shape.micro_batch_sequences,
                                         ceil_divide(settings.batch_sequences, shape.micro_batch_sequences));
    const auto model = model_of(devices_, spec, settings, shape.memory.keep, shape.micro_batch_sequences);
    return group_steps_[of_batch] = median_step(devices_, *model, probe).whole;
  }

 private:
  static ProbeShape probe_shape(const ModelSpec& spec, const TrainingSettings& settings, int64_t sequences,
                                int64_t micro_batches) {
    return {.vocab_size = spec.embedding.vocab_size,
            .sequence_length = settings.sequence_length,
            .micro_batch_sequences = sequences,
            .micro_batches = micro_batches,
            .dropout = settings.dropout,
            .seed = settings.seed};
  }

  static std::unique_ptr<DataParallelModel> model_of(std::span<Device* const> devices, const ModelSpec& spec,
                                                     const TrainingSettings& settings, Keep keep, int64_t sequences) {
    auto model = std::make_unique<DataParallelModel>(
        devices, spec, std::span<const float>(), sequences * settings.sequence_length, keep,
        resolve_precision(settings.precision, devices), settings.record_passes);
    model->start_from(initial_weights(spec, settings.seed));
    return model;
  }

  /// As many sequences as a micro-batch may have to take no longer than half of the time for a shape.
  int64_t affordable_sequences(const ModelSpec& spec, const TrainingSettings& settings, int64_t wanted) const {
    const double peak = devices_.front()->peak_flops();
    if (peak <= 0) return wanted;
    const double one = static_cast<double>(settings.sequence_length) * training_flops(spec, settings.sequence_length) /
                       (kReachedFraction * peak);
    return std::clamp<int64_t>(static_cast<int64_t>(seconds_ / 2 / one), 1, wanted);
  }

  TrainingTime probe(const ModelSpec& spec, const TrainingSettings& settings, const ChosenShape& shape,
                     int64_t sequences) const {
    const std::span<Device* const> one = devices_.subspan(0, 1);
    const auto model = model_of(one, spec, settings, shape.memory.keep, sequences);
    const ProbeShape probe = probe_shape(spec, settings, sequences, 1);
    const StepSeconds step = median_step(one, *model, probe);
    std::vector<double> scoring;
    for (int64_t number = 0; number < 2; ++number) scoring.push_back(time_scoring(*model, probe, number));
    const double scale = static_cast<double>(shape.micro_batch_sequences) / static_cast<double>(sequences);
    return {.step = {.micro_batch_seconds = step.gradients * scale, .update_seconds = step.whole - step.gradients},
            .scoring_seconds_per_token = scoring.back() / static_cast<double>(probe.micro_batch_tokens()),
            .measured = true,
            .probe_sequences = sequences};
  }

  StepSeconds median_step(std::span<Device* const> devices, DataParallelModel& model, const ProbeShape& shape) const {
    const int64_t warm_up = devices.front()->records() ? 3 : 1;  // the second one is recorded
    const auto start = std::chrono::steady_clock::now();
    std::vector<double> gradients, updates;
    for (int64_t number = 0; number < warm_up + kStepsMax; ++number) {
      const StepSeconds seconds = time_training_step(devices, model, shape, number, /*wait_for_gradients=*/true);
      if (number < warm_up) continue;
      gradients.push_back(seconds.gradients);
      updates.push_back(seconds.whole - seconds.gradients);
      if (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() > seconds_) break;
    }
    return {.gradients = median(gradients), .whole = median(gradients) + median(updates)};
  }

  std::span<Device* const> devices_;
  double seconds_;
  std::map<Key, TrainingTime> times_;
  std::map<std::pair<Key, int64_t>, double> group_steps_;  ///< and by the batch
};

class GivenTimer final : public TrainingTimer {
 public:
  GivenTimer(const ModelSpec& base, double tokens_per_second) : base_(base), tokens_per_second_(tokens_per_second) {}

  TrainingTime time(const ModelSpec& spec, const TrainingSettings& settings, const ChosenShape& shape) override {
    const int64_t length = settings.sequence_length;
    const double slower = training_flops(spec, length) / training_flops(base_, length);
    const double seconds_per_token = slower / tokens_per_second_;
    return {
        .step = {.micro_batch_seconds = seconds_per_token * static_cast<double>(shape.micro_batch_sequences * length)},
        .scoring_seconds_per_token = seconds_per_token / 3};
  }
  std::optional<double> group_step(const ModelSpec&, const TrainingSettings&) override { return std::nullopt; }

 private:
  ModelSpec base_;
  double tokens_per_second_;
};

}  // namespace

std::unique_ptr<TrainingTimer> probing_timer(std::span<Device* const> devices, double seconds) {
  return std::make_unique<ProbingTimer>(devices, seconds);
}

std::unique_ptr<TrainingTimer> given_timer(const ModelSpec& base, double tokens_per_second) {
  return std::make_unique<GivenTimer>(base, tokens_per_second);
}

}  // namespace cbtm
