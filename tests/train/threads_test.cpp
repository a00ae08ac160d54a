// The number of threads changes no bit of a training, wherever it changes: from the start, or between two attempts.

#include <doctest/doctest.h>

#include "cbtm/base/error.h"
#include "cbtm/train/trainer.h"
#include "tests/train/tiny_training.h"

namespace cbtm {
namespace {

/// Large enough for threads to share the work of every operator, with sizes that none of the counts divides.
struct WideTraining : TinyTraining {
  WideTraining()
      : TinyTraining({300, 50, 700, 110, 20, 440, 900, 80}, OptShape{.vocab_size = 203,
                                                                     .hidden_size = 44,
                                                                     .num_hidden_layers = 2,
                                                                     .num_attention_heads = 2,
                                                                     .ffn_dim = 90,
                                                                     .max_position_embeddings = 80,
                                                                     .word_embed_proj_dim = 44}) {
    settings = {.steps = 4,
                .sequence_length = 61,
                .batch_sequences = 9,
                .learning_rate = 1e-2,
                .dropout = 0.1,
                .weight_decay = 0.1,
                .micro_batch_sequences = 7,
                .save_every = 1};
  }
};

struct Threads {
  explicit Threads(int count) : before(thread_count()) { set_thread_count(count); }
  ~Threads() { set_thread_count(before); }
  int before;
};

TEST_CASE("trainings with any numbers of threads, and resumed with others, are bitwise the same") {
  Device& device = test_device();
  const WideTraining reference;
  const TrainingResult expected = reference.train(device);
  for (const int count : {2, 3, 5, 8}) {
    CAPTURE(count);
    const WideTraining other;
    const Threads threads(count);
    const TrainingResult result = other.train(device);
    CHECK(result.parameters == expected.parameters);
    CHECK(result.loss == expected.loss);
    CHECK(result.validation_loss == expected.validation_loss);
  }
  // Every step but the first with another number than the one before: a failure of the snapshot ends each attempt.
  WideTraining resumed;
  resumed.settings.snapshots = 3;
  int64_t interruptions = 0;
  resumed.job.snapshot = [&](int64_t number, std::span<const float>) {
    if (number > interruptions) {
      ++interruptions;
      fail("interrupted");
    }
  };
  TrainingResult result;
  for (const int count : {3, 1, 8, 2}) {
    const Threads threads(count);
    try {
      result = resumed.train(device);
    } catch (const Error& error) {
      CHECK(std::string(error.what()).find("interrupted") != std::string::npos);
    }
  }
  CHECK(interruptions == 3);
  CHECK(result.parameters == expected.parameters);
}

TEST_CASE("what is recomputed, as memory allows, changes no bit of a training") {
  const WideTraining reference;
  Device* const device = &test_device();
  const ModelSpec& spec = reference.spec;
  for (const Keep keep : {Keep::all_but_feed_forward, Keep::block_inputs}) {
    CAPTURE(static_cast<int>(keep));
    TrainingModel kept(*device, spec, reference.parameters, 7 * 61, Keep::everything);
    TrainingModel again(*device, spec, reference.parameters, 7 * 61, keep);
    PhiloxStream random(4, 4);
    for (int64_t step = 1; step <= 2; ++step) {
      std::vector<int32_t> ids, targets;
      for (int64_t i = 0; i < 7 * 61; ++i) {
        ids.push_back(static_cast<int32_t>(random.next_below(203)));
        targets.push_back(static_cast<int32_t>(random.next_below(203)));
      }
      const std::vector<int32_t> offsets = {0, 61, 100, 172, 240, 310, 380, 427};
      const BackwardOptions options{.gradient_scale = 0.01f,
                                    .dropout = 0.1f,
                                    .seed = 3,
                                    .step = static_cast<uint32_t>(step),
                                    .dropout_columns = 80};
      CHECK(kept.accumulate_gradients({ids, offsets}, targets, options) ==
            again.accumulate_gradients({ids, offsets}, targets, options));
      const float* a = kept.gradients().as<float>();
      const float* b = again.gradients().as<float>();
      CHECK(std::equal(a, a + kept.layout().flat_size(), b));
      kept.optimizer_step({.step = step, .learning_rate = 0.01f});
      again.optimizer_step({.step = step, .learning_rate = 0.01f});
      CHECK(std::equal(kept.weights_on_host().begin(), kept.weights_on_host().end(), again.weights_on_host().begin()));
    }
  }
}

}  // namespace
}  // namespace cbtm
