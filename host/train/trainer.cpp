#include "cbtm/train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <optional>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/error.h"
#include "cbtm/base/file_lock.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/signals.h"
#include "cbtm/device/device_error.h"
#include "cbtm/model/layer_routing.h"
#include "cbtm/train/data_parallel_model.h"
#include "cbtm/train/token_stream.h"
#include "cbtm/train/training_shape.h"
#include "train/batches.h"
#include "train/loss_scale.h"
#include "train/metrics_log.h"
#include "train/state_writer.h"
#include "train/training_state.h"

namespace cbtm {

Json training_settings_json(const TrainingSettings& s) {
  return {{"steps", s.steps},
          {"sequence_length", s.sequence_length},
          {"batch_sequences", s.batch_sequences},
          {"learning_rate", s.learning_rate},
          {"warmup_steps", s.warmup_steps},
          {"final_learning_rate", s.final_learning_rate},
          {"dropout", s.dropout},
          {"weight_decay", s.weight_decay},
          {"clip_norm", s.clip_norm},
          {"beta1", s.beta1},
          {"beta2", s.beta2},
          {"epsilon", s.epsilon},
          {"attention_within_document", s.attention_within_document},
          {"precision", s.precision},
          {"seed", s.seed}};
}

DType resolve_precision(const std::string& precision, const Device& device) {
  if (precision == "auto") return device.training_type();
  for (const auto& [name, dtype] : {std::pair{"float32", DType::f32}, {"bf16", DType::bf16}, {"fp16", DType::f16}})
    if (precision == name) {
      if (!device.computes_in(dtype))
        fail_usage("--precision {}: {} does not train in it; use {}", precision, device.description(),
                   device.computes_in(DType::f16) ? "float32 or fp16" : "float32");
      return dtype;
    }
  fail_usage("--precision {}: use auto, float32, bf16 or fp16", precision);
}

DType resolve_precision(const std::string& precision, std::span<Device* const> devices) {
  const DType first = resolve_precision(precision, *devices.front());
  for (const Device* device : devices)
    if (resolve_precision(precision, *device) != first)
      fail_usage("--precision auto is {} on {} but {} on {}; name one of them", dtype_name(first),
                 devices.front()->description(), dtype_name(device->training_type()), device->description());
  return first;
}

void check_training_settings(std::span<Device* const> devices, const ModelSpec& spec,
                             const TrainingSettings& settings) {
  resolve_precision(settings.precision, devices);
  if (settings.sequence_length > spec.embedding.max_length)
    fail_usage("--sequence {} is longer than the model's {} positions", settings.sequence_length,
               spec.embedding.max_length);
  choose_micro_batch(settings, static_cast<int64_t>(devices.size()), 1);
}

double learning_rate_at(const TrainingSettings& s, int64_t step) {
  if (step <= s.warmup_steps) return s.learning_rate * static_cast<double>(step) / static_cast<double>(s.warmup_steps);
  const auto decaying = static_cast<double>(std::max<int64_t>(1, s.steps - s.warmup_steps));
  const double left = static_cast<double>(s.steps - step) / decaying;
  return s.learning_rate * (s.final_learning_rate + (1 - s.final_learning_rate) * left);
}

namespace {

constexpr int64_t kFailuresInARow = 5;

std::vector<IndexedDataset> open_datasets(const std::vector<std::filesystem::path>& prefixes, int64_t vocab_size) {
  std::vector<IndexedDataset> datasets;
  for (const std::filesystem::path& prefix : prefixes) {
    datasets.emplace_back(prefix);
    datasets.back().check_ids(vocab_size);
  }
  return datasets;
}

/// What a saved state has to match to be gone on from.
Json identity_of(std::span<Device* const> devices, const TrainingJob& job, const TrainingSettings& settings) {
  Json identity = {{"start", job.identity}, {"settings", training_settings_json(settings)}};
  identity["settings"]["precision"] =
      dtype_name(resolve_precision(settings.precision, devices));  // what "auto" came to
  return identity;
}

class Training {
 public:
  Training(std::span<Device* const> devices, const TrainingJob& job, const TrainingSettings& settings)
      : devices_(devices),
        job_(job),
        settings_(settings),
        dtype_(resolve_precision(settings.precision, devices)),
        identity_(identity_of(devices, job, settings)),
        stream_(open_datasets(job.train_prefixes, job.spec.embedding.vocab_size), settings.seed),
        held_out_(held_out_documents(open_datasets(job.held_out_prefixes, job.spec.embedding.vocab_size),
                                     settings.sequence_length)) {
    check_training_settings(devices, job.spec, settings);
    choose_shape();
    say_plan();
    model_ = std::make_shared<DataParallelModel>(devices, job.spec, std::span<const float>(),
                                                 micro_ * settings.sequence_length, memory_.keep, dtype_,
                                                 settings.record_passes);
    if (dtype_ == DType::f16) counters_.loss_scale = LossScale::start();
    counters_.micro_batch_sequences = micro_;
  }

  TrainingResult run(const ParameterSource& start) {
    const FileLock lock(job_.work_directory / ".lock", FileLock::Wait::no);
    if (!lock.held())
      fail("{}: another process is training it, in {}; wait for its end, or stop it", job_.name,
           job_.work_directory.string());
    if (const auto resumed = load_training_state(job_.work_directory, *model_, identity_)) {
      counters_ = *resumed;
      counters_.micro_batch_sequences = micro_;
      say(fmt::format("{}: goes on after step {} of {}", job_.name, counters_.step, settings_.steps));
    } else {
      model_->start_from(start);
    }
    writer_.emplace(*model_, job_.work_directory, identity_, settings_.keep, counters_.step);
    try {
      train_to_the_end();
      return result();
    } catch (const DeviceError& error) {
      fail_with_progress(error);
    }
  }

 private:
  void train_to_the_end() {
    MetricsLog metrics(job_.work_directory / "metrics.jsonl", counters_.step);
    for (const Json& line : metrics.earlier()) remember(line);
    Progress progress(job_.name);
    const int64_t validate_every =
        settings_.validate_every > 0 ? settings_.validate_every : std::max<int64_t>(1, settings_.steps / 10);
    if (counters_.step == 0 && settings_.steps > 0) {
      validation_loss_ = validate();
      metrics.add({{"step", 0}, {"tokens", 0}, {"validation_loss", validation_loss_}});
    }
    const int64_t started_at = counters_.step;
    const auto start = std::chrono::steady_clock::now();
    const double seconds_before = counters_.seconds, device_seconds_before = counters_.device_seconds;
    const double step_flops =
        3 * static_cast<double>(batch_tokens()) * job_.spec.forward_flops_per_token(settings_.sequence_length);
    while (counters_.step < settings_.steps) {
      const auto step_start = std::chrono::steady_clock::now();
      Json line = step();
      if (line.is_null()) stop();
      const auto now = std::chrono::steady_clock::now();
      const double taken = std::chrono::duration<double>(now - step_start).count();
      const double attempt_seconds = std::chrono::duration<double>(now - start).count();
      counters_.seconds = seconds_before + attempt_seconds;
      counters_.device_seconds = device_seconds_before + attempt_seconds * static_cast<double>(device_count());
      line["tokens_per_second"] = std::round(static_cast<double>(batch_tokens()) / taken);
      if (const double peak = peak_flops(); peak > 0)
        line["fraction_of_peak"] = std::round(1000 * step_flops / taken / peak) / 1000;
      if (counters_.step % validate_every == 0 || counters_.step == settings_.steps) {
        validation_loss_ = validate();
        line["validation_loss"] = validation_loss_;
      }
      metrics.add(line);
      const double mean_seconds = attempt_seconds / static_cast<double>(counters_.step - started_at);
      const std::string text =
          fmt::format("step {}/{}, loss {:.3f}, held out {:.3f}, {} tokens/s, {} left", counters_.step, settings_.steps,
                      line["loss"].is_number() ? line["loss"].get<double>() : NAN, validation_loss_,
                      format_count(line["tokens_per_second"].get<int64_t>()),
                      format_duration(mean_seconds * static_cast<double>(settings_.steps - counters_.step)));
      if (counters_.step == settings_.steps)
        progress.finish(text);
      else
        progress.update(text);
      take_snapshot();
      if (counters_.step % settings_.save_every == 0 || counters_.step == settings_.steps) save();
      if (stop_requested() != 0 && counters_.step < settings_.steps) stop();
    }
    writer_->finish();
  }

  /// A failure of the device, with how far the training came and what of it is kept.
  [[noreturn]] void fail_with_progress(const DeviceError& failure) {
    try {
      writer_->finish();
    } catch (const Error&) {  // of the same device, most likely; the state before it is there
    }
    const int64_t saved = writer_->saved_step();
    fail_device("{}: after step {} of {}: {}; {}", job_.name, counters_.step, settings_.steps, failure.what(),
                saved > 0 ? fmt::format("the state after step {} is saved, the same command goes on from it", saved)
                          : "no state was saved yet (--save-every)");
  }

  int64_t batch_tokens() const { return settings_.batch_sequences * settings_.sequence_length; }
  int64_t device_count() const { return static_cast<int64_t>(devices_.size()); }
  int64_t micro_batches() const { return ceil_divide(settings_.batch_sequences, micro_); }

  /// Of all devices; 0 if one's are unknown.
  double peak_flops() const {
    double sum = 0;
    for (Device* device : devices_) {
      if (device->peak_flops() <= 0) return 0;
      sum += device->peak_flops();
    }
    return sum;
  }

  /// The size of the micro-batches and the memory; what a saved state was trained with comes first.
  void choose_shape() {
    ChosenShape chosen =
        choose_training_shape(devices_, job_.spec, settings_, training_host_memory(devices_, stream_.order_bytes()),
                              saved_micro_batch(job_.work_directory));
    micro_ = chosen.micro_batch_sequences;
    memory_ = std::move(chosen.memory);
  }

  void say_plan() const {
    say(fmt::format("{}: {} parameters, {} tokens a step in {} micro-batches of {} x {} tokens{}", job_.name,
                    format_count(ParameterLayout(job_.spec).parameter_count()), format_count(batch_tokens()),
                    micro_batches(), micro_, settings_.sequence_length,
                    device_count() > 1 ? fmt::format(" on {} devices", device_count()) : ""));
    say(fmt::format("{}: {}memory\n{}", job_.name, device_count() > 1 ? "on each device, " : "", memory_.table()));
  }

  /// One optimizer step; its line for metrics.jsonl, or null if a stop was asked for before it was complete.
  Json step() {
    const DataParallelModel::Phase phase(*model_, "step");
    const int64_t length = settings_.sequence_length;
    const int64_t number = counters_.step + 1;
    for (int64_t m = 0; m < micro_batches(); ++m) {
      if (m > 0 && stop_requested() != 0 && model_->may_stop_before(m, micro_batches())) return nullptr;
      model_->add_gradients(
          training_batch(stream_, settings_, number, m * micro_, micro_),
          {.gradient_scale = static_cast<float>(counters_.loss_scale.value) / static_cast<float>(batch_tokens()),
           .dropout = static_cast<float>(settings_.dropout),
           .seed = settings_.seed,
           .step = static_cast<uint32_t>(number),
           .first_row = m * micro_ * length,
           .dropout_columns = round_up(length, 16)},
          m, micro_batches());
    }
    const double rate = learning_rate_at(settings_, number);
    const StepResult done = model_->finish_step({.step = counters_.optimizer_steps + 1,
                                                 .learning_rate = static_cast<float>(rate),
                                                 .beta1 = static_cast<float>(settings_.beta1),
                                                 .beta2 = static_cast<float>(settings_.beta2),
                                                 .epsilon = static_cast<float>(settings_.epsilon),
                                                 .weight_decay = static_cast<float>(settings_.weight_decay),
                                                 .clip_norm = static_cast<float>(settings_.clip_norm),
                                                 .loss_scale = static_cast<float>(counters_.loss_scale.value)});
    const double loss = done.loss_sum / static_cast<double>(batch_tokens());
    const double norm = done.gradient_norm;
    const bool finite = std::isfinite(loss) && std::isfinite(norm);
    const bool overflow = dtype_ == DType::f16 && !counters_.loss_scale.update(finite);
    counters_.step = number;
    Json line = {{"step", number}, {"tokens", number * batch_tokens()}, {"learning_rate", rate}};
    if (finite) {
      ++counters_.optimizer_steps;
      line["loss"] = loss;
      line["gradient_norm"] = norm;
      if (job_.spec.has_mixtures()) add_routing(layer_routing(job_.spec, done.routing_statistics), line);
      remember(line);
    } else {
      ++counters_.skipped_steps;
      line["loss"] = nullptr;
      line["gradient_norm"] = nullptr;
      line["skipped"] = true;
      if (overflow) {
        line["loss_scale"] = counters_.loss_scale.value;
        say(fmt::format("{}: step {} skipped: a float16 overflow; the loss scale is now {}", job_.name, number,
                        counters_.loss_scale.value));
        return line;
      }
      remember(line);
      warn(fmt::format("{}: step {} skipped: loss or gradient is not finite ({} skipped so far)", job_.name, number,
                       counters_.skipped_steps));
      if (failures_ >= kFailuresInARow)
        fail(
            "{}: {} steps in a row had a loss or gradient that is not finite; lower --learning-rate, raise --warmup, "
            "or look at the shard's text",
            job_.name, failures_);
    }
    return line;
  }

  /// What the result and the stop after failures need of a step, whether just taken or read from the metrics.
  void remember(const Json& line) {
    if (line.contains("validation_loss") && line["validation_loss"].is_number())
      validation_loss_ = line["validation_loss"];
    if (line.contains("skipped")) ++failures_;
    if (!line.contains("loss") || !line["loss"].is_number()) return;
    failures_ = 0;
    recent_losses_.push_back(line["loss"]);
    if (static_cast<int64_t>(recent_losses_.size()) > std::max<int64_t>(1, settings_.steps / 10))
      recent_losses_.pop_front();
  }

  /// Mean loss over held-out documents, without dropout.
  double validate() {
    const DataParallelModel::Phase phase(*model_, "validation");
    double targets = 0;
    for (const MicroBatch& document : held_out_) targets += static_cast<double>(document.targets.size());
    return targets > 0 ? model_->loss_sum(held_out_) / targets : 0;
  }

  /// Before the state is saved: a run killed in between takes it again.
  void take_snapshot() {
    if (!job_.snapshot) return;
    for (int64_t number = 1; number <= settings_.snapshots; ++number)
      if (counters_.step == number * settings_.steps / (settings_.snapshots + 1) &&
          counters_.step != (number - 1) * settings_.steps / (settings_.snapshots + 1) &&
          counters_.step < settings_.steps)
        give_snapshot(number);
  }

  void give_snapshot(int64_t number) {
    std::vector<float> copy;
    job_.snapshot(number, model_->weights_on_host(copy));
  }

  void save() { writer_->save(counters_); }

  [[noreturn]] void stop() {
    save();
    writer_->finish();
    throw Error(
        fmt::format(
            "{}: stopped by signal {} after step {} of {}; the state is saved, the same command goes on from it",
            job_.name, stop_requested(), counters_.step, settings_.steps),
        kExitInterrupted);
  }

  TrainingResult result() {
    TrainingResult result;
    std::vector<float> copy;
    const std::span<const float> weights = model_->weights_on_host(copy);
    result.parameters = copy.empty() ? TrainedWeights(weights, model_) : TrainedWeights(std::move(copy));
    result.steps = counters_.step;
    result.tokens = counters_.step * batch_tokens();
    result.skipped_steps = counters_.skipped_steps;
    double sum = 0;
    for (const double loss : recent_losses_) sum += loss;
    result.loss = recent_losses_.empty() ? 0 : sum / static_cast<double>(recent_losses_.size());
    result.validation_loss = validation_loss_;
    result.seconds = counters_.seconds;
    result.device_seconds = counters_.device_seconds;
    return result;
  }

  std::span<Device* const> devices_;
  const TrainingJob& job_;
  const TrainingSettings& settings_;
  DType dtype_;
  Json identity_;
  TokenStream stream_;
  std::vector<MicroBatch> held_out_;
  int64_t micro_ = 1;
  TrainingMemory memory_;
  std::shared_ptr<DataParallelModel> model_;
  std::optional<StateWriter> writer_;
  TrainingCounters counters_;
  int64_t failures_ = 0;
  std::deque<double> recent_losses_;
  double validation_loss_ = 0;
};

}  // namespace

TrainingResult train_model(std::span<Device* const> devices, const TrainingJob& job, const TrainingSettings& settings,
                           const ParameterSource& start) {
  return Training(devices, job, settings).run(start);
}

void forget_training_state(const std::filesystem::path& work_directory) {
  std::error_code error;
  std::vector<std::filesystem::path> ours;
  for (auto entry = std::filesystem::directory_iterator(work_directory, error);
       !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    // Unfinished ones begin with the same names.
    if (name.starts_with("state-") || name.starts_with("metrics.jsonl") || name == ".lock")
      ours.push_back(entry->path());
  }
  for (const std::filesystem::path& path : ours) std::filesystem::remove(path, error);
  std::filesystem::remove(work_directory, error);  // unless somebody keeps files of his own there
  std::filesystem::remove(work_directory.parent_path(), error);
}

void forget_other_training_state(std::span<Device* const> devices, const TrainingJob& job,
                                 const TrainingSettings& settings) {
  if (has_other_training_state(job.work_directory, identity_of(devices, job, settings)))
    forget_training_state(job.work_directory);
}

}  // namespace cbtm
