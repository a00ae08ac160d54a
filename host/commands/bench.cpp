#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "cbtm/base/error.h"
#include "cbtm/base/memory.h"
#include "cbtm/device/open_device.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/model/families.h"
#include "cbtm/model/inference.h"
#include "cbtm/model/training_model.h"
#include "cbtm/train/data_parallel_model.h"
#include "cbtm/train/trainer.h"
#include "cbtm/train/training_probe.h"
#include "commands/bench_cluster.h"
#include "commands/bench_device.h"
#include "commands/command_line.h"
#include "commands/commands.h"
#include "commands/type_flags.h"

namespace cbtm {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kRowsMax = int64_t{1} << 27;  ///< tokens at a time; offsets are 32 bits, and so is a product with 8

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// On several devices each takes one micro-batch of a step.
Json bench_train(std::span<Device* const> devices, const CommandLine& line, const std::filesystem::path& model_path) {
  const ModelCheckpoint checkpoint = ModelCheckpoint::open(model_path);
  const ModelSpec& config = checkpoint.spec();
  const int64_t sequence = line.integer("sequence", 8, config.embedding.max_length);  // 8: the least in training
  const int64_t micro_batch = line.integer("micro-batch", 1, kRowsMax / sequence);
  const int64_t steps = line.integer("steps", 1, 1 << 20);
  const double dropout = dropout_flag(line);
  std::vector<float> flat(static_cast<size_t>(checkpoint.layout().flat_size()));
  checkpoint.read_parameters(DType::f32, flat.data());
  const int64_t rows = sequence * micro_batch;
  Device& device = *devices.front();
  const auto device_count = static_cast<int64_t>(devices.size());
  const DType dtype = resolve_precision(precision_flag(line), devices);
  const TrainingMemory memory = plan_training_memory(
      devices, config, {.rows = rows, .sequence_length = sequence, .dtype = dtype}, memory_flag(line));
  DataParallelModel model(devices, config, flat, rows, memory.keep, dtype, !line.get<bool>("no-cuda-graph"));
  flat = {};

  const ProbeShape shape{.vocab_size = config.embedding.vocab_size,
                         .sequence_length = sequence,
                         .micro_batch_sequences = micro_batch,
                         .micro_batches = device_count,
                         .dropout = dropout,
                         .seed = line.common().seed};
  std::vector<double> rates;
  const int64_t warm_up = device.records() ? 3 : 1;  // the second one is recorded
  for (int64_t step = 0; step < warm_up + steps; ++step) {
    const StepSeconds seconds = time_training_step(devices, model, shape, step, /*wait_for_gradients=*/false);
    if (step >= warm_up) rates.push_back(static_cast<double>(shape.step_tokens()) / seconds.whole);
  }
  const double rate = median(rates);
  const double flops = 3 * rate * config.forward_flops_per_token(sequence);
  Json result = {{"tokens_per_second", rate}, {"steps", steps},
                 {"sequence", sequence},      {"micro_batch", micro_batch},
                 {"dropout", dropout},        {"planned_bytes", memory.total()},
                 {"flops_per_second", flops}, {"precision", dtype_name(dtype)},
                 {"devices", device_count}};
  if (const double peak = device.peak_flops() * static_cast<double>(device_count); peak > 0)
    result["fraction_of_peak"] = flops / peak;
  return result;
}

/// The share of the weights that a step of so many tokens reads: of a mixture those of the experts that are chosen, if
/// tokens choose evenly.
double share_read(const ModelSpec& spec, int64_t tokens) {
  double read = 0, all = 0;
  const ParameterLayout layout(spec);
  for (const Parameter& parameter : layout.parameters()) {
    const auto size = static_cast<double>(parameter.size());
    all += size;
    if (parameter.expert < 0) {
      read += size;
      continue;
    }
    const auto experts = static_cast<double>(spec.block(parameter.layer).feed_forward.experts);
    read += size * (1 - std::pow(1 - 2 / experts, static_cast<double>(tokens)));
  }
  return read / all;
}

Json bench_decode(Device& device, const CommandLine& line, const std::filesystem::path& model_path) {
  const auto model = InferenceModel::load(device, model_path, weights_flag(line));
  const int64_t sequence = line.integer("sequence", 1, model->max_length() - 1);
  const int64_t batch = line.integer("micro-batch", 1, std::min<int64_t>(1 << 16, kRowsMax / sequence));
  const int64_t steps = std::min(line.integer("steps", 1, 1 << 20), model->max_length() - sequence);
  std::vector<int64_t> handles;
  std::vector<int32_t> prompt_offsets = {0}, token_offsets = {0};
  for (int64_t s = 0; s < batch; ++s) {
    handles.push_back(model->open_sequence());
    prompt_offsets.push_back(static_cast<int32_t>((s + 1) * sequence));
    token_offsets.push_back(static_cast<int32_t>(s + 1));
  }
  const std::vector<int32_t> prompt = random_tokens(batch * sequence, model->vocab_size(), line.common().seed);
  // As generation does it: the logits stay on the device, where tokens are chosen.
  const auto read = [&](std::vector<int32_t> ids, const std::vector<int32_t>& offsets, RowSums row_sums) {
    const ReadPass pass{.handles = handles,
                        .ids = std::move(ids),
                        .offsets = offsets,
                        .wanted = std::vector<uint8_t>(handles.size(), 1),
                        .row_sums = row_sums};
    const auto start = Clock::now();
    model->read(std::span(&pass, 1));
    device.synchronize();
    return seconds_since(start);
  };
  read(prompt, prompt_offsets, RowSums::prompt);  // what is chosen, loaded and allocated the first time
  for (int64_t& handle : handles) {
    model->close_sequence(handle);
    handle = model->open_sequence();
  }
  const double prompt_seconds = read(prompt, prompt_offsets, RowSums::prompt);
  const std::vector<int32_t> tokens = random_tokens(batch * steps, model->vocab_size(), line.common().seed + 1);
  std::vector<double> rates;
  for (int64_t step = 0; step < steps; ++step) {
    const auto first = tokens.begin() + step * batch;
    rates.push_back(static_cast<double>(batch) / read({first, first + batch}, token_offsets, RowSums::decode));
  }
  // What a step cannot but read: its weights once, and the caches of all sequences as they are half way.
  const double weight_bytes =
      static_cast<double>(model->weight_bytes()) * share_read(read_model_spec(model_config_file(model_path)), batch);
  const double cached_tokens =
      static_cast<double>(batch) * (static_cast<double>(sequence) + static_cast<double>(steps) / 2);
  const double bytes = weight_bytes + cached_tokens * static_cast<double>(model->key_value_bytes());
  const double bytes_per_second = bytes * median(rates) / static_cast<double>(batch);
  Json result = {{"tokens_per_second", median(rates)},
                 {"bytes_per_second", bytes_per_second},
                 {"prompt_tokens_per_second", static_cast<double>(batch * sequence) / prompt_seconds},
                 {"steps", steps},
                 {"sequence", sequence},
                 {"micro_batch", batch},
                 {"weight_bytes", model->weight_bytes()}};
  if (const double peak = device.peak_bytes_per_second(); peak > 0)
    result["fraction_of_bandwidth"] = bytes_per_second / peak;
  return result;
}

}  // namespace

int run_bench(int argc, char** argv) {
  CommandLine line(
      "bench", "measure training, decoding, clustering or the device; random data, no files are written",
      {"cbtm bench train --model run/seed --sequence 256 --micro-batch 8 --steps 20",
       "cbtm bench train --model run/seed --device cuda:all      (a micro-batch on each GPU)",
       "cbtm bench decode --model run/seed --sequence 128 --steps 64 --weights int8",
       "cbtm bench cluster --points 1e6 --k 64 --device cuda",
       "cbtm bench device --device cuda      (bandwidth, matrix products, launches: what limits the others)"});
  if (!line.parse(argc, argv)) return kExitSuccess;
  const std::string what = line.action();
  if (what != "train" && what != "decode" && what != "cluster" && what != "device")
    fail_usage("bench: '{}' cannot be measured; use train, decode, cluster or device", what);
  const DeviceList devices = open_devices(line.common().device, line.common().profile);
  if (what != "train" && devices.all().size() > 1)
    fail_usage("bench {}: one device at a time; --device {} names several", what, line.common().device);
  Device* const device = &devices.front();
  if (what == "device") {
    line.write_json(bench_device(*device));
    return kExitSuccess;
  }
  if (what == "cluster") {
    Json result = bench_cluster(*device, line);
    result["what"] = what;
    result["device"] = device->description();
    line.write_json(result);
    return kExitSuccess;
  }
  Json result = what == "train" ? bench_train(devices.all(), line, line.path("model"))
                                : bench_decode(*device, line, line.path("model"));
  result["what"] = what;
  result["device"] = device->description();
  result["peak_resident_bytes"] = peak_resident_bytes();
  fmt::print("{:.1f} tokens/s (median of {} steps)\n", result["tokens_per_second"].get<double>(),
             result["steps"].get<int64_t>());
  if (result.contains("fraction_of_peak"))
    fmt::print("model flops utilisation {:.1f} %: 3 x forward flops a token x tokens/s, of {:.0f} TFLOP/s{}\n",
               100 * result["fraction_of_peak"].get<double>(), device->peak_flops() / 1e12,
               devices.all().size() > 1 ? fmt::format(" a device, {} devices", devices.all().size()) : "");
  if (result.contains("fraction_of_bandwidth"))
    fmt::print("{:.1f} % of {:.0f} GB/s: weights and caches read once a step\n",
               100 * result["fraction_of_bandwidth"].get<double>(), device->peak_bytes_per_second() / 1e9);
  line.write_json(result);
  return kExitSuccess;
}

}  // namespace cbtm
