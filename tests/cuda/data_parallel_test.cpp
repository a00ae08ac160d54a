// Several GPUs that train one model together: the operations of a group against sums on the host, and whole trainings
// against those on one GPU. With one GPU alone there is nothing to test, which is said (the simulator has four).

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <thread>

#include "cbtm/device/device_error.h"
#include "cuda_device.h"
#include "tests/cuda/half_precision.h"
#include "tests/largest_difference.h"
#include "tests/opt_shape.h"
#include "tests/train/tiny_training.h"
#include "train/device_threads.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;

/// As many GPUs as wanted, or fewer if there are not so many.
struct Gpus {
  explicit Gpus(size_t wanted) {
    const size_t there = static_cast<size_t>(cuda_system().device_count);
    for (size_t i = 0; i < std::min(wanted, there); ++i) owned.push_back(make_cuda_device(static_cast<int>(i)));
    for (const std::unique_ptr<Device>& device : owned) all.push_back(device.get());
    all.front()->bind_thread();
  }
  Device& front() { return *all.front(); }
  size_t size() const { return all.size(); }

  std::vector<std::unique_ptr<Device>> owned;
  std::vector<Device*> all;
};

bool one_gpu_only() {
  if (static_cast<size_t>(cuda_system().device_count) > 1) return false;
  MESSAGE("SKIPPED: this machine has one GPU, which has nobody to train with");
  return true;
}

std::vector<float> values_of(size_t rank, size_t count) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i)
    values[i] = std::sin(static_cast<float>(i * 7 + rank * 1000)) * (i % 97 == 0 ? 1e4f : 1.0f);
  return values;
}

// Each operation reads what the operator before it writes and is read by the operator after join(): copies that run on
// the operators' stream.
TEST_CASE("sums, shares of sums and gathered shares, of odd sizes and one element") {
  if (one_gpu_only()) return;
  for (const size_t wanted : {size_t{2}, size_t{3}, size_t{4}}) {
    Gpus gpus(wanted);
    const size_t size = gpus.size();
    const auto group = gpus.front().connect(gpus.all);
    DeviceThreads threads(gpus.all, [&] {
      for (const auto& member : group) member->abort();
    });
    for (const size_t own : {size_t{1}, size_t{31}, size_t{4099}}) {
      CAPTURE(size);
      CAPTURE(own);
      const size_t whole = own * size;
      std::vector<std::vector<float>> sums(size), shares(size), gathered(size);
      std::vector<double> doubles(size);
      for (size_t rank = 0; rank < size; ++rank)
        threads.post(rank, [&, rank] {
          Device& device = *gpus.all[rank];
          Collectives& member = *group[rank];
          CHECK(member.rank() == static_cast<int>(rank));
          CHECK(member.size() == static_cast<int>(size));
          const auto floats = [](const DeviceBuffer& buffer) { return buffer.view(DType::f32, 1, buffer.bytes() / 4); };
          const auto bytes = [](size_t count) { return static_cast<int64_t>(count) * 4; };
          const DeviceBuffer start = device.allocate(bytes(whole), "test"), in = device.allocate(bytes(whole), "test"),
                             sum = device.allocate(bytes(whole), "test"), share = device.allocate(bytes(own), "test"),
                             all = device.allocate(bytes(whole), "test"),
                             result = device.allocate(bytes(whole), "test"), half = device.allocate(bytes(own), "test"),
                             halves = device.allocate(bytes(whole), "test"), one = device.allocate(8, "test");
          device.copy_to_device(start.data(), values_of(rank, whole).data(), bytes(whole));
          device.copy(floats(in), floats(start));
          member.all_reduce(floats(in), floats(sum));
          member.reduce_scatter(floats(in), floats(share));
          // The share goes on as bf16, and comes back from all.
          member.join();
          const auto own_columns = static_cast<int64_t>(own), whole_columns = static_cast<int64_t>(whole);
          const TensorView rounded = half.view(DType::bf16, 1, own_columns),
                           all_rounded = halves.view(DType::bf16, 1, whole_columns);
          device.copy(rounded, floats(share));
          member.all_gather(rounded, all_rounded);
          member.join();
          device.copy(floats(all), all_rounded);
          const double number = 1.0 / static_cast<double>(rank + 3);
          device.copy_to_device(one.data(), &number, 8);
          const TensorView place = one.view(DType::f64, 1, 1);
          member.all_reduce(place, place);
          member.join();
          member.wait();
          for (const auto& [to, from] : {std::pair{&sums, &sum}, {&shares, &share}, {&gathered, &all}}) {
            (*to)[rank].resize(static_cast<size_t>(from->bytes()) / 4);
            device.copy_to_host((*to)[rank].data(), from->data(), from->bytes());
          }
          device.copy_to_host(&doubles[rank], one.data(), 8);
        });
      threads.wait();
      std::vector<double> want(whole);
      double double_sum = 0;
      for (size_t rank = 0; rank < size; ++rank) {
        const std::vector<float> part = values_of(rank, whole);
        for (size_t i = 0; i < whole; ++i) want[i] += static_cast<double>(part[i]);
        double_sum += 1.0 / static_cast<double>(rank + 3);
      }
      for (size_t rank = 0; rank < size; ++rank) {
        CAPTURE(rank);
        CHECK(sums[rank] == sums[0]);  // the same bits everywhere
        CHECK(gathered[rank] == gathered[0]);
        CHECK(doubles[rank] == doubles[0]);
        for (size_t i = 0; i < whole; ++i) {
          // Each of size - 1 additions rounds by 2^-24 of a sum of at most 1e4 a device; bf16 by 2^-8 of the sum.
          const double bound = static_cast<double>(size * size) * 0x1p-24 * (i % 97 == 0 ? 1e4 : 1);
          if (!(std::abs(static_cast<double>(sums[rank][i]) - want[i]) <= bound)) FAIL_CHECK("sum " << i);
          if (!(std::abs(static_cast<double>(gathered[rank][i]) - want[i]) <= bound + 0x1p-8 * std::abs(want[i])))
            FAIL_CHECK("gathered " << i);
        }
        CHECK(std::equal(shares[rank].begin(), shares[rank].end(),
                         sums[rank].begin() + static_cast<ptrdiff_t>(rank * own)));
        CHECK(std::abs(doubles[rank] - double_sum) <= 1e-15);
      }
    }
  }
}

TEST_CASE("a GPU that does not come: the others wait until the group is ended, and say why") {
  if (one_gpu_only()) return;
  Gpus gpus(2);
  const auto group = gpus.front().connect(gpus.all);
  std::string message;
  std::thread waiting([&] {
    gpus.front().bind_thread();
    try {
      const DeviceBuffer buffer = gpus.front().allocate(400, "test");
      const TensorView view = buffer.view(DType::f32, 1, 100);
      gpus.front().fill_zero(view);
      group[0]->all_reduce(view, view);
      group[0]->join();
      group[0]->wait();
    } catch (const DeviceError& error) {
      message = error.what();
    }
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  for (const auto& member : group) member->abort();
  waiting.join();
  CHECK(message == "the exchange between GPUs was ended, as another GPU failed");
}

OptShape shape(bool pre_norm) {
  return {.vocab_size = 307,
          .hidden_size = 64,
          .num_hidden_layers = 2,
          .num_attention_heads = 2,
          .ffn_dim = 160,
          .max_position_embeddings = 48,
          .word_embed_proj_dim = pre_norm ? 64 : 32,
          .do_layer_norm_before = pre_norm};
}

struct Training : TinyTraining {
  Training(bool pre_norm, const std::string& precision) : TinyTraining({30, 5, 70, 11, 2, 44, 90, 8}, shape(pre_norm)) {
    settings = {.steps = 4,
                .sequence_length = 21,
                .batch_sequences = 5,
                .learning_rate = 3e-3,
                .warmup_steps = 2,
                .dropout = 0.1,
                .weight_decay = 0.1,
                .clip_norm = 0.1,
                .precision = precision,
                .micro_batch_sequences = 1,
                .save_every = 2,
                .keep = 100,
                .validate_every = 2};
  }
};

// Sums of gradients in another order: in float32 2^-24 of them, about. In 16 bits the weights of the products are
// rounded anew each step, so that a last bit of a sum may round one weight the other way, 2^-8 of it in bf16: of
// 100,000 weights few, which shows in the gradients' norm sooner than in the loss. Seen: losses 1e-8 and 1e-5 apart,
// norms 1e-3, weights 1e-7.
TEST_CASE("losses and weights on several GPUs are those on one") {
  if (one_gpu_only()) return;
  for (const bool pre_norm : {true, false})
    for (const std::string precision : {"float32", "bf16", "fp16"}) {
      if (precision == "bf16" && half_precision() != "bf16") continue;
      if (!pre_norm && precision != half_precision()) continue;
      Gpus gpus(4);
      Training one(pre_norm, precision);
      const TrainingResult want = one.train(gpus.front());
      const double bound = precision == "float32" ? 1e-6 : 1e-4;
      for (const size_t size : {size_t{2}, size_t{4}}) {
        if (precision == "fp16" && size > 2) continue;
        CAPTURE(pre_norm);
        CAPTURE(precision);
        CAPTURE(size);
        Training several(pre_norm, precision);
        const TrainingResult got = several.train(std::span(gpus.all).first(std::min(size, gpus.size())));
        const std::vector<Json> lines = several.step_metrics(), expected = one.step_metrics();
        REQUIRE(lines.size() == expected.size());
        for (size_t i = 0; i < lines.size(); ++i)
          for (const char* key : {"loss", "gradient_norm", "validation_loss"}) {
            REQUIRE(lines[i].contains(key) == expected[i].contains(key));
            if (expected[i].contains(key) && expected[i][key].is_number())
              CHECK(std::abs(lines[i][key].get<double>() / expected[i][key].get<double>() - 1) <=
                    bound * (precision != "float32" && std::string(key) == "gradient_norm" ? 20 : 1));
          }
        if (precision == "float32") CHECK(largest_difference(got.parameters, want.parameters) <= 1e-5);
      }
    }
}

TEST_CASE("a training goes on bit for bit on as many GPUs, and goes on on one") {
  if (one_gpu_only()) return;
  Gpus gpus(3);
  Training whole(true, "float32");
  const TrainingResult want = whole.train(gpus.all);
  const fs::path states = whole.job.work_directory;
  fs::remove(states / "state-00000004.safetensors");
  CHECK(whole.train(gpus.all).parameters == want.parameters);
  fs::remove(states / "state-00000004.safetensors");
  const TrainingResult on_one = whole.train(gpus.front());
  CHECK(on_one.parameters != want.parameters);
  CHECK(largest_difference(on_one.parameters, want.parameters) <= 1e-5);
}

}  // namespace
}  // namespace cbtm
