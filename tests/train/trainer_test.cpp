// The training loop: what it does with a batch is held against another program's numbers, the rest against itself.

#include "cbtm/train/trainer.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "cbtm/base/error.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/train/token_stream.h"
#include "tests/largest_difference.h"
#include "tests/train/failing_device.h"
#include "tests/train/tiny_training.h"

namespace cbtm {

namespace {

TEST_CASE("losses and gradient norms of a training equal those that PyTorch and transformers give") {
  const std::filesystem::path data = CBTM_TEST_DATA;
  const Json golden = read_json_file(data / "train/steps.json");
  const ModelCheckpoint checkpoint = ModelCheckpoint::open(data / golden["model"].get<std::string>());
  std::vector<float> parameters(static_cast<size_t>(checkpoint.layout().flat_size()));
  checkpoint.read_parameters(DType::f32, parameters.data());
  TinyTraining tiny;
  IndexedDatasetWriter writer(tiny.directory / "golden", checkpoint.spec().embedding.vocab_size);
  writer.add(golden["document"].get<std::vector<int32_t>>());  // one document: there is but one order
  writer.commit();
  tiny.job.spec = checkpoint.spec();
  tiny.job.train_prefixes = {tiny.directory / "golden"};
  tiny.job.held_out_prefixes = {tiny.directory / "golden"};
  tiny.parameters = parameters;
  const Json& s = golden["settings"];
  tiny.settings = {.steps = s["steps"],
                   .sequence_length = s["sequence_length"],
                   .batch_sequences = s["batch_sequences"],
                   .learning_rate = s["learning_rate"],
                   .warmup_steps = s["warmup_steps"],
                   .final_learning_rate = s["final_learning_rate"],
                   .dropout = 0,
                   .weight_decay = s["weight_decay"],
                   .clip_norm = s["clip_norm"],
                   .beta1 = s["beta1"],
                   .beta2 = s["beta2"],
                   .epsilon = s["epsilon"],
                   .micro_batch_sequences = 3};
  tiny.train(test_device());
  const std::vector<Json> lines = tiny.step_metrics();
  REQUIRE(lines.size() == golden["loss"].size());
  for (size_t i = 0; i < lines.size(); ++i) {
    CAPTURE(i);
    // Tolerances: 1e-5 of a loss, 1e-5 of a norm; from the second step on the weights differ by rounding that
    // AdamW's division magnifies (parameters there: within 5e-5), which the loss sees to first order.
    const double loosened = i == 0 ? 1 : 5;
    CHECK(std::abs(lines[i]["loss"].get<double>() - golden["loss"][i].get<double>()) <= loosened * 1e-5);
    const double norm = golden["gradient_norm"][i];
    CHECK(std::abs(lines[i]["gradient_norm"].get<double>() - norm) <= loosened * 1e-5 * norm);
    CHECK(lines[i]["learning_rate"].get<double>() == doctest::Approx(golden["learning_rate"][i].get<double>()));
  }
}

TEST_CASE("the micro-batch changes the result by rounding only, dropout included") {
  TinyTraining whole;
  whole.settings.micro_batch_sequences = 4;
  const TrainingResult expected = whole.train(test_device());
  for (const int64_t micro : {1, 2, 3}) {
    CAPTURE(micro);
    TinyTraining cut;
    cut.settings.micro_batch_sequences = micro;
    const TrainingResult result = cut.train(test_device());
    // A weight moves by at most the learning rate a step whatever the rounding; other dropout or scale would move most
    // of them by about that.
    CHECK(largest_difference(result.parameters, expected.parameters) < 0.01 * whole.settings.learning_rate);
    CHECK(result.loss == doctest::Approx(expected.loss).epsilon(1e-5));
  }
}

TEST_CASE("the same settings give bitwise the same weights, another seed others") {
  const TrainedWeights first = TinyTraining().train(test_device()).parameters;
  CHECK(TinyTraining().train(test_device()).parameters == first);
  TinyTraining other;
  other.settings.seed += 1;
  CHECK(largest_difference(other.train(test_device()).parameters, first) > 1e-3);
}

TEST_CASE("attention within documents: a document reads as if it stood alone") {
  TinyTraining tiny;
  tiny.settings.dropout = 0;
  tiny.settings.steps = 1;
  const auto first_loss = [&](bool within) {
    TinyTraining training;
    training.settings = tiny.settings;
    training.settings.attention_within_document = within;
    training.train(test_device());
    return training.step_metrics().front()["loss"].get<double>();
  };
  // The first batch again, cut at the documents, each piece a sequence of its own.
  std::vector<IndexedDataset> datasets;
  datasets.emplace_back(tiny.directory / "train");
  TokenStream stream(std::move(datasets), tiny.settings.seed);
  TrainingModel model(test_device(), tiny.spec, tiny.parameters, 24, Keep::everything);
  std::vector<int32_t> ids(25), starts;
  double sum = 0;
  int64_t pieces = 0;
  for (int64_t index = 0; index < tiny.settings.batch_sequences; ++index) {
    stream.sequence(index, 24, ids, starts);
    starts.insert(starts.begin(), 0);
    starts.push_back(24);
    for (size_t piece = 0; piece + 1 < starts.size(); ++piece) {
      const auto begin = static_cast<size_t>(starts[piece]), end = std::min<size_t>(24, starts[piece + 1]);
      if (begin >= end) continue;
      const int32_t offsets[] = {0, static_cast<int32_t>(end - begin)};
      sum += model.loss_sum({std::span(ids).subspan(begin, end - begin), offsets},
                            std::span(ids).subspan(begin + 1, end - begin));
      ++pieces;
    }
  }
  REQUIRE(pieces > tiny.settings.batch_sequences);
  CHECK(first_loss(true) == doctest::Approx(sum / (24.0 * 4)).epsilon(1e-6));
  CHECK(std::abs(first_loss(false) - sum / (24.0 * 4)) > 1e-4);
}

TEST_CASE("steps whose gradient is not finite change nothing and are counted") {
  TinyTraining tiny;
  tiny.settings.dropout = 0;
  FailingDevice failing({2, 4});
  const TrainingResult result = tiny.train(failing);
  CHECK(result.steps == 6);
  CHECK(result.skipped_steps == 2);
  const std::vector<Json> lines = tiny.step_metrics();
  for (size_t i = 0; i < 6; ++i) CHECK(lines[i].contains("skipped") == (i == 1 || i == 3));

  // The same by hand: the skipped batches are read and forgotten, Adam's own count goes on without them.
  std::vector<IndexedDataset> datasets;
  datasets.emplace_back(tiny.directory / "train");
  TokenStream stream(std::move(datasets), tiny.settings.seed);
  TrainingModel model(test_device(), tiny.spec, tiny.parameters, 24 * 4, Keep::everything);
  int64_t updates = 0;
  for (int64_t step = 1; step <= 6; ++step) {
    if (step == 2 || step == 4) continue;
    std::vector<int32_t> ids, targets, offsets = {0}, sequence(25), starts;
    for (int64_t index = 0; index < 4; ++index) {
      stream.sequence((step - 1) * 4 + index, 24, sequence, starts);
      ids.insert(ids.end(), sequence.begin(), sequence.end() - 1);
      targets.insert(targets.end(), sequence.begin() + 1, sequence.end());
      offsets.push_back(static_cast<int32_t>(ids.size()));
    }
    const double loss = model.accumulate_gradients({ids, offsets}, targets, {.gradient_scale = 1.0f / (24 * 4)});
    CHECK(lines[static_cast<size_t>(step) - 1]["loss"].get<double>() == doctest::Approx(loss / (24 * 4)).epsilon(1e-9));
    model.optimizer_step({.step = ++updates,
                          .learning_rate = static_cast<float>(learning_rate_at(tiny.settings, step)),
                          .epsilon = static_cast<float>(tiny.settings.epsilon),
                          .clip_norm = 1});
  }
  const float* weights = model.weights().as<float>();
  CHECK(std::equal(result.parameters.begin(), result.parameters.end(), weights));
}

TEST_CASE("steps whose loss is not finite change nothing and are counted") {
  // Only a sequence that reaches position 40 meets the damaged row; just one document is that long.
  TinyTraining tiny({30, 5, 20, 11, 2, 90, 30, 8, 17, 25, 33});
  tiny.settings.sequence_length = 48;
  tiny.settings.batch_sequences = 1;
  tiny.settings.attention_within_document = true;
  const ParameterLayout layout(tiny.spec);
  const Parameter& positions = *layout.find(ParameterRole::position_embedding);
  tiny.parameters[static_cast<size_t>(positions.offset + (40 + 2) * positions.columns)] = NAN;
  tiny.settings.steps = 8;
  const TrainingResult result = tiny.train(test_device());
  int64_t skipped = 0;
  for (const Json& line : tiny.step_metrics()) {
    CHECK(line["loss"].is_null() == line.contains("skipped"));
    skipped += line.contains("skipped") ? 1 : 0;
  }
  CHECK(skipped >= 1);
  CHECK(skipped < 5);
  CHECK(result.skipped_steps == skipped);
  CHECK(std::isfinite(result.loss));
  CHECK(std::count_if(result.parameters.begin(), result.parameters.end(), [](float w) { return std::isnan(w); }) == 1);
}

TEST_CASE("several such steps in a row end the training with what to try") {
  TinyTraining tiny;
  tiny.settings.steps = 20;
  FailingDevice failing({1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14, 15});
  CHECK_THROWS_WITH_AS(tiny.train(failing), doctest::Contains("--learning-rate"), Error);
  CHECK(tiny.step_metrics().size() == 14);
  CHECK(std::filesystem::exists(tiny.job.work_directory / "state-00000014.safetensors"));
}

TEST_CASE("a training that does not fit is refused before the first step, with what to change") {
  TinyTraining tiny;
  tiny.settings.memory_bytes = 50'000;
  try {
    tiny.train(test_device());
    FAIL("50 kB cannot be enough");
  } catch (const Error& error) {
    const std::string message = error.what();
    CAPTURE(message);
    for (const char* word : {"49 KiB", "--micro-batch", "--sequence", "--memory", "model"})
      CHECK(message.find(word) != std::string::npos);
  }
  CHECK_FALSE(std::filesystem::exists(tiny.job.work_directory));
}

TEST_CASE("a sequence longer than the model's positions, or ids beyond its vocabulary, are refused") {
  TinyTraining tiny;
  tiny.settings.sequence_length = 49;
  CHECK_THROWS_WITH_AS(tiny.train(test_device()), doctest::Contains("--sequence 49"), Error);
  TinyTraining foreign;
  foreign.job.spec.embedding.vocab_size = 60;
  CHECK_THROWS_WITH_AS(foreign.train(test_device()), doctest::Contains("vocabulary of 60"), Error);
}

}  // namespace
}  // namespace cbtm
