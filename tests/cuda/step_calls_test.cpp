// What a training step asks of the CUDA runtime: the program puts counting functions before those of the runtime
// (which is a shared library here), and trains as `train_expert` does.

#include <cuda_profiler_api.h>
#include <cuda_runtime.h>
#include <dlfcn.h>
#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <numeric>
#include <string>

#include "cbtm/base/error.h"
#include "cbtm/device/model_operators.h"
#include "cbtm/device/profile_range.h"
#include "cbtm/ensemble/session.h"
#include "cbtm/model/training_model.h"
#include "cuda_device.h"
#include "tests/cuda/half_precision.h"
#include "tests/ensemble/golden_ensemble.h"
#include "tests/opt_shape.h"

namespace {

std::map<std::string, int> calls;      // by function, since the last clear()
std::map<const char*, size_t> pinned;  // begin and bytes of pinned host memory
std::map<void*, size_t> allocated;     // begin and bytes of device memory

size_t allocated_bytes() {
  size_t sum = 0;
  for (const auto& [memory, bytes] : allocated) sum += bytes;
  return sum;
}
int pageable_copies = 0;

template <typename Function>
Function* next(const char* name) {
  ++calls[name];
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

bool is_pinned(const void* memory) {
  const auto after = pinned.upper_bound(static_cast<const char*>(memory));
  if (after == pinned.begin()) return false;
  const auto& [begin, bytes] = *std::prev(after);
  return static_cast<const char*>(memory) < begin + bytes;
}

}  // namespace

extern "C" {
cudaError_t cudaMalloc(void** memory, size_t bytes) {
  const cudaError_t status = next<cudaError_t(void**, size_t)>("cudaMalloc")(memory, bytes);
  if (status == cudaSuccess) allocated[*memory] = bytes;
  return status;
}
cudaError_t cudaFree(void* memory) {
  allocated.erase(memory);
  return next<cudaError_t(void*)>("cudaFree")(memory);
}
cudaError_t cudaMallocHost(void** memory, size_t bytes) {
  const cudaError_t status = next<cudaError_t(void**, size_t)>("cudaMallocHost")(memory, bytes);
  pinned[static_cast<const char*>(*memory)] = bytes;
  return status;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return next<decltype(cudaMemcpy)>("cudaMemcpy")(to, from, bytes, kind);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (kind == cudaMemcpyHostToDevice && !is_pinned(from)) ++pageable_copies;
  if (kind == cudaMemcpyDeviceToHost && !is_pinned(to)) ++pageable_copies;
  return next<decltype(cudaMemcpyAsync)>("cudaMemcpyAsync")(to, from, bytes, kind, stream);
}
/// What nvcc makes of <<<>>>.
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                               cudaStream_t stream) {
  return next<cudaError_t(cudaKernel_t, dim3, dim3, void**, size_t, cudaStream_t)>("__cudaLaunchKernel")(
      kernel, grid, block, arguments, shared, stream);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  return next<decltype(cudaGraphLaunch)>("cudaGraphLaunch")(graph, stream);
}
cudaError_t cudaProfilerStart() { return next<cudaError_t()>("cudaProfilerStart")(); }
cudaError_t cudaProfilerStop() { return next<cudaError_t()>("cudaProfilerStop")(); }
cudaError_t cudaDeviceSynchronize() { return next<decltype(cudaDeviceSynchronize)>("cudaDeviceSynchronize")(); }
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return next<decltype(cudaStreamSynchronize)>("cudaStreamSynchronize")(stream);
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return next<decltype(cudaEventSynchronize)>("cudaEventSynchronize")(event);
}
}

namespace cbtm {
namespace {

constexpr int64_t kLayers = 3;
constexpr int64_t kRows = 48;

OptShape shape() {
  return {.vocab_size = 307,
          .hidden_size = 64,
          .num_hidden_layers = kLayers,
          .num_attention_heads = 2,
          .ffn_dim = 160,
          .max_position_embeddings = 48,
          .word_embed_proj_dim = 64};
}

struct Trained {
  std::vector<double> losses, norms;
  std::vector<float> weights;
  std::map<std::string, int> last_step;  ///< runtime calls
};

/// `steps` steps of two micro-batches of two sequences, and a smaller one. `first_row` is the dropout's. `documents`:
/// each micro-batch has as many tokens, in two to four sequences that are others every time.
Trained train(Device& device, DType dtype, bool record, int steps, bool documents = false) {
  const ModelSpec spec = shape();
  const std::vector<float> parameters = initial_parameters(spec, 5);
  TrainingModel model(device, spec, parameters, kRows, Keep::everything, dtype);
  model.record_passes(record);
  Trained trained;
  for (int step = 1; step <= steps; ++step) {
    device.synchronize();
    calls.clear();
    pageable_copies = 0;
    for (int micro_batch = 0; micro_batch < 3; ++micro_batch) {
      std::vector<int> lengths(micro_batch == 2 ? 1 : 2, 24);
      if (documents) {
        lengths = {1 + (step * 7 + micro_batch * 5) % 20, 1 + step % 9};
        if (micro_batch != 0) lengths.push_back(10);
        lengths.push_back(static_cast<int>(kRows) - std::accumulate(lengths.begin(), lengths.end(), 0));
      }
      std::vector<int32_t> ids, targets, offsets = {0};
      for (size_t s = 0; s < lengths.size(); ++s) {
        for (int i = 0; i < lengths[s]; ++i)
          ids.push_back((step * 89 + micro_batch * 31 + static_cast<int>(s) * 7 + i * i) % 307);
        offsets.push_back(static_cast<int32_t>(ids.size()));
      }
      targets.assign(ids.rbegin(), ids.rend());
      model.add_gradients({ids, offsets}, targets,
                          {.gradient_scale = 1.0f / 120,
                           .dropout = 0.1f,
                           .seed = 17,
                           .step = static_cast<uint32_t>(step),
                           .first_row = micro_batch * kRows,
                           .dropout_columns = 32});
    }
    const int waits = calls["cudaStreamSynchronize"] + calls["cudaEventSynchronize"] + calls["cudaDeviceSynchronize"];
    if (step >= 3) CHECK(waits == 0);  // the gradients of a step are asked for without waiting
    const StepResult result = model.finish_step({.step = step, .learning_rate = 1e-3f, .clip_norm = 1});
    trained.losses.push_back(result.loss_sum);
    trained.norms.push_back(result.gradient_norm);
    if (step >= 3) CHECK(pageable_copies == 0);
    trained.last_step = calls;
  }
  trained.weights.resize(static_cast<size_t>(model.layout().flat_size()));
  device.copy_to_host(trained.weights.data(), model.weights().data, model.layout().flat_size() * 4);
  return trained;
}

// On a GPU a graph of a whole pass is launched again and again; the simulator's products are captured anew each time.
TEST_CASE("recorded operators run again, and read the dropout's step and first row where they lie") {
  const std::unique_ptr<Device> device = make_cuda_device(0);
  constexpr int64_t kWidth = 72, kCount = 37;
  std::vector<float> values(kCount * kWidth);
  for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<float>(i));
  const DeviceBuffer residual = device->allocate(kCount * kWidth * 4, "test");
  const DeviceBuffer out = device->allocate(kCount * kWidth * 4, "test");
  const DeviceBuffer place = device->allocate(16, "test");
  device->copy_to_device(residual.data(), values.data(), kCount * kWidth * 4);
  const TensorView in = residual.view(DType::f32, kCount, kWidth), result = out.view(DType::f32, kCount, kWidth);
  const int32_t offsets[] = {0, 20, kCount};
  const auto calls_with = [&](const Dropout& dropout) {
    device->model_operators().residual_layernorm_forward({.residual = in,
                                                          .branch = in,
                                                          .dropout = dropout,
                                                          .gamma = {},
                                                          .beta = {},
                                                          .sum = result,
                                                          .normalized = {},
                                                          .mean = {},
                                                          .rstd = {}});
    device->model_operators().attention_forward({.shape = {.query_offsets = offsets,
                                                           .key_offsets = offsets,
                                                           .num_heads = 3,
                                                           .head_dim = kWidth / 3,
                                                           .dropout = dropout,
                                                           .dropout_columns = 32},
                                                 .query = result,
                                                 .key = result,
                                                 .value = in,
                                                 .output = result,
                                                 .log_sum_exp = {}});
  };
  const auto result_values = [&] {
    std::vector<float> read(values.size());
    device->copy_to_host(read.data(), out.data(), kCount * kWidth * 4);
    return read;
  };
  const auto recorded_calls = [&] {
    calls_with({.probability = 0.3f, .seed = 4, .place = place.view(DType::i64, 1, 2)});
  };
  CHECK(device->record(recorded_calls) == nullptr);  // the offsets are not on the device yet
  const auto stand_at = [&](int64_t step, int64_t first_row) {
    const int64_t numbers[] = {step, first_row};
    device->copy_to_device(place.data(), numbers, sizeof numbers);
  };
  stand_at(1, 0);
  recorded_calls();
  const std::unique_ptr<RecordedOperators> record = device->record(recorded_calls);
  REQUIRE(record != nullptr);
  for (const auto& [step, first_row] : {std::pair<uint32_t, int64_t>{1, 0}, {2, 37}, {900, int64_t{1} << 33}}) {
    stand_at(step, first_row);
    REQUIRE(record->valid());
    record->run();
    const std::vector<float> got = result_values();
    calls_with({.probability = 0.3f, .seed = 4, .step = step, .first_row = first_row});
    CHECK(got == result_values());
  }
}

TEST_CASE("a step: nothing allocated, one wait at its end, graphs with the same bits as launches one by one") {
  const std::unique_ptr<Device> device = make_cuda_device(0);
  for (const DType dtype : {DType::f32, half_type()}) {
    CAPTURE(std::string(dtype_name(dtype)));
    Trained recorded = train(*device, dtype, true, 5);
    Trained launched = train(*device, dtype, false, 5);
    CHECK(recorded.losses == launched.losses);
    CHECK(recorded.norms == launched.norms);
    CHECK(recorded.weights == launched.weights);
    for (Trained* trained : {&recorded, &launched}) {
      auto& last = trained->last_step;
      for (const std::string none : {"cudaMalloc", "cudaFree", "cudaMallocHost", "cudaMemcpy", "cudaStreamSynchronize",
                                     "cudaDeviceSynchronize"}) {
        CAPTURE(none);
        CHECK(last[none] == 0);
      }
      CHECK(last["cudaEventSynchronize"] == 1);  // for the loss and the norm
    }
    CHECK(recorded.last_step["cudaGraphLaunch"] == 3);
    CHECK(launched.last_step["cudaGraphLaunch"] == 0);
    // Without those of cuBLASLt: 10 a layer, and those of embedding, loss, last norm, all bias gradients and optimizer.
    CHECK(launched.last_step["__cudaLaunchKernel"] <= 3 * (10 * kLayers + 12) + 6);
  }
}

TEST_CASE("documents that do not see each other: passes of other lengths run as the same graphs, with the same bits") {
  const std::unique_ptr<Device> device = make_cuda_device(0);
  for (const DType dtype : {DType::f32, half_type()}) {
    CAPTURE(std::string(dtype_name(dtype)));
    Trained recorded = train(*device, dtype, true, 6, /*documents=*/true);
    Trained launched = train(*device, dtype, false, 6, /*documents=*/true);
    CHECK(recorded.losses == launched.losses);
    CHECK(recorded.norms == launched.norms);
    CHECK(recorded.weights == launched.weights);
    CHECK(recorded.last_step["cudaGraphLaunch"] == 3);
    CHECK(recorded.last_step["cudaMalloc"] == 0);
    CHECK(recorded.last_step["cudaStreamSynchronize"] == 0);
  }
}

TEST_CASE(
    "a decoding step of an ensemble: nothing allocated, one copy to the device an expert and one for the mixture") {
  const std::unique_ptr<Device> device = make_cuda_device(0);
  const ExpertSet experts = golden_experts();
  const auto scorer = ensemble_scorer(*device, experts, {4, 0.3, 2}, {});  // all four, so that none comes late
  Session session(*scorer, nullptr);
  for (const int32_t first : {896, 524, 43})
    session.add({.prompt = {first, 40}, .options = {.new_tokens_max = 16, .ignore_eos = true}, .on_text = {}});
  // Steps 3 to 14 write into the first page of every cache.
  for (int step = 0; step < 4; ++step) session.step();
  for (int step = 0; step < 6; ++step) {
    calls.clear();
    pageable_copies = 0;
    session.step();
    for (const std::string none : {"cudaMalloc", "cudaFree", "cudaMallocHost", "cudaMemcpy", "cudaDeviceSynchronize"}) {
      CAPTURE(none);
      CHECK(calls[none] == 0);
    }
    CHECK(pageable_copies == 0);
    // Beside those: what attention takes of lengths and pages, the same for all layers and experts, and the tokens
    // back.
    CHECK(calls["cudaMemcpyAsync"] <= 4 + 1 + 4 + 1);
    CHECK(calls["cudaGraphLaunch"] == 4);  // an expert's whole pass each
    CHECK(calls["__cudaLaunchKernel"] <= 3);
  }
}

TEST_CASE("a training takes its memory in one piece, and gives it back") {
  const std::unique_ptr<Device> device = make_cuda_device(0);
  { train(*device, half_type(), true, 1); }  // what the device itself keeps is there
  const size_t before = allocated_bytes();
  const ModelSpec spec = shape();
  const std::vector<float> parameters = initial_parameters(spec, 5);
  for (int round = 0; round < 2; ++round) {
    calls.clear();
    TrainingModel model(*device, spec, parameters, kRows, Keep::everything, half_type());
    CHECK(calls["cudaMalloc"] == 1);
    CHECK(calls["cudaFree"] == 0);
    CHECK(allocated_bytes() > before);
  }
  CHECK(allocated_bytes() == before);
}

TEST_CASE("a snapshot holds what was there when it was started, whatever the next step does") {
  const std::unique_ptr<Device> device = make_cuda_device(0);
  const ModelSpec spec = shape();
  const std::vector<float> parameters = initial_parameters(spec, 5);
  TrainingModel model(*device, spec, parameters, kRows, Keep::everything, DType::f32);
  std::vector<float> weights(parameters.size()), first(parameters.size()), second(parameters.size());
  const std::shared_ptr<HostCopy> snapshot = model.start_snapshot(weights, first, second);
  std::vector<int32_t> ids(kRows);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * 37 % 307);
  const int32_t offsets[] = {0, static_cast<int32_t>(kRows)};
  model.add_gradients({ids, offsets}, ids, {.gradient_scale = 1.0f / kRows, .dropout_columns = kRows});
  model.finish_step({.step = 1, .learning_rate = 1e-3f});
  snapshot->wait();
  CHECK(weights == parameters);
  CHECK(first == std::vector<float>(parameters.size()));
  std::vector<float> now(parameters.size());
  device->copy_to_host(now.data(), model.weights().data, static_cast<int64_t>(now.size()) * 4);
  CHECK(now != parameters);
}

TEST_CASE("a profiler captures the phases asked for") {
  const std::unique_ptr<Device> device = make_cuda_device(0);
  device->profile(parse_profile_range("step:2:2"));
  for (int step = 1; step <= 5; ++step) {
    CAPTURE(step);
    calls.clear();
    {
      const Device::Phase phase(*device, "step");
      const Device::Phase inner(*device, "layer");
    }
    CHECK(calls["cudaProfilerStart"] == (step == 2 ? 1 : 0));
    CHECK(calls["cudaProfilerStop"] == (step == 3 ? 1 : 0));
  }
  for (const std::string text : {"", "steps", "step:0", "step:1:", "step:x"})
    CHECK_THROWS_AS(parse_profile_range(text), Error);
}

}  // namespace
}  // namespace cbtm
