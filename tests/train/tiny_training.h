#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "cbtm/base/philox.h"
#include "cbtm/base/threads.h"
#include "cbtm/dataset/indexed_dataset.h"
#include "cbtm/device/device.h"
#include "cbtm/model/training_model.h"
#include "cbtm/train/trainer.h"
#include "tests/opt_shape.h"
#include "tests/temporary_directory.h"

namespace cbtm {

/// One thread: at this size a second one only waits, and on a busy machine waits long.
inline Device& test_device() {
  static const std::unique_ptr<Device> device = (set_thread_count(1), make_cpu_device());
  return *device;
}

/// A model of a few thousand parameters and a shard of random documents: a training that takes milliseconds.
struct TinyTraining {
  TemporaryDirectory directory;
  ModelSpec spec;
  TrainingSettings settings{.steps = 6,
                            .sequence_length = 24,
                            .batch_sequences = 4,
                            .learning_rate = 1e-2,
                            .warmup_steps = 2,
                            .dropout = 0.1,
                            .save_every = 2};
  std::vector<float> parameters;
  TrainingJob job;

  /// `lengths`: of the training documents; the held-out ones have 20 tokens.
  explicit TinyTraining(const std::vector<int64_t>& lengths = {30, 5, 70, 11, 2, 44, 90, 8},
                        const ModelSpec& shape = OptShape())
      : spec(shape), parameters(initial_parameters(shape, 3)) {
    PhiloxStream random(9, 0);
    const auto write = [&](const char* name, const std::vector<int64_t>& document_lengths) {
      IndexedDatasetWriter writer(directory / name, spec.embedding.vocab_size);
      for (const int64_t length : document_lengths) {
        std::vector<int32_t> ids;
        for (int64_t i = 0; i < length; ++i)
          ids.push_back(static_cast<int32_t>(random.next_below(static_cast<uint64_t>(spec.embedding.vocab_size))));
        writer.add(ids);
      }
      writer.commit();
    };
    write("train", lengths);
    write("tune", {20, 20});
    job = {.name = "tiny",
           .spec = spec,
           .train_prefixes = {directory / "train"},
           .held_out_prefixes = {directory / "tune"},
           .work_directory = directory / "work",
           .identity = {{"seed", "hash of the seed"}, {"shard", "hash of the shard"}}};
  }

  TrainingResult train(std::span<Device* const> devices) const {
    return train_model(devices, job, settings,
                       [&](std::span<float> weights) { std::ranges::copy(parameters, weights.begin()); });
  }
  TrainingResult train(Device& device) const {
    Device* const devices[] = {&device};
    return train(devices);
  }
  /// The lines of its metrics.jsonl that tell of a step.
  std::vector<Json> step_metrics() const {
    std::vector<Json> lines;
    std::ifstream file(job.work_directory / "metrics.jsonl");
    for (std::string text; std::getline(file, text);)
      if (Json line = Json::parse(text); line["step"] > 0) lines.push_back(std::move(line));
    return lines;
  }
};

}  // namespace cbtm
