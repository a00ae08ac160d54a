#include <algorithm>

#include "cbtm/model/families.h"
#include "cbtm/model/training_model.h"
#include "tests/model/golden_model.h"

namespace cbtm {
namespace {

std::vector<float> flat_parameters(const std::filesystem::path& directory, ModelSpec& spec) {
  const ModelCheckpoint checkpoint = ModelCheckpoint::open(directory);
  spec = checkpoint.spec();
  std::vector<float> flat(static_cast<size_t>(checkpoint.layout().flat_size()));
  checkpoint.read_parameters(DType::f32, flat.data());
  return flat;
}

/// Next-token targets: the last position of each sequence is not scored.
std::vector<int32_t> shifted(const std::vector<int32_t>& ids, int64_t length) {
  std::vector<int32_t> targets(ids.size(), -100);
  for (size_t i = 0; i + 1 < ids.size(); ++i)
    if ((i + 1) % static_cast<size_t>(length) != 0) targets[i] = ids[i + 1];
  return targets;
}

/// The golden's tensor of a parameter, whatever prefix it has there.
const StoredTensor* golden_tensor(const TensorFile& file, const std::string& name) {
  for (const StoredTensor& tensor : file.tensors())
    if (tensor.name == name || tensor.name.ends_with("decoder." + name)) return &tensor;
  return nullptr;
}

struct GoldenTraining {
  Json manifest;
  std::vector<int32_t> ids;
  int64_t steps, batch, length;
  explicit GoldenTraining(const std::filesystem::path& folder) : manifest(read_json_file(folder / "manifest.json")) {
    const TensorFile file = TensorFile::open(folder / "train_ids.safetensors");
    const StoredTensor& tensor = file.tensors().front();
    ids = tensor.values<int32_t>();
    steps = tensor.shape[0];
    batch = tensor.shape[1];
    length = tensor.shape[2];
  }
  std::vector<int32_t> step_ids(int64_t step) const {
    return {ids.begin() + step * batch * length, ids.begin() + (step + 1) * batch * length};
  }
};

/// Its gradient is zero up to noise, so its step is noise.
bool is_key_bias(const Parameter& parameter) {
  return parameter.role == ParameterRole::key && parameter.part == ParameterPart::bias;
}

void check_parameters(const TrainingModel& model, const TensorFile& golden) {
  int64_t compared = 0, off = 0;
  for (const Parameter& parameter : model.layout().parameters()) {
    if (is_key_bias(parameter)) continue;
    const StoredTensor* tensor = golden_tensor(golden, tensor_name(model.spec(), parameter));
    REQUIRE(tensor != nullptr);
    const std::vector<float> want = tensor->values<float>();
    const float* got = model.weights().as<float>() + parameter.offset;
    for (size_t i = 0; i < want.size(); ++i) {
      const double difference = std::abs(static_cast<double>(got[i]) - static_cast<double>(want[i]));
      CAPTURE(tensor_name(model.spec(), parameter));
      if (!(difference <= 5e-5)) FAIL_CHECK("a parameter is off by " << difference);
      off += difference > 2e-6 ? 1 : 0;
      ++compared;
    }
  }
  CHECK(off * 1000 <= compared);
}

TEST_CASE(
    "loss, gradients and three AdamW steps equal the goldens, whatever is recomputed and however the batch is cut") {
  for (const char* name : {"tiny-preln", "tiny-postln-proj"}) {
    const std::filesystem::path folder = kGoldenModels / name;
    const GoldenTraining golden(folder);
    const Json& optimizer = golden.manifest["goldens"]["train"]["optimizer"];
    const TensorFile gradients = TensorFile::open(folder / "grads_step1.safetensors");
    for (const Keep keep : {Keep::everything, Keep::all_but_feed_forward, Keep::block_inputs}) {
      for (const int64_t micro : {golden.batch, int64_t{1}}) {
        CAPTURE(name);
        CAPTURE(static_cast<int>(keep));
        CAPTURE(micro);
        ModelSpec spec;
        const std::vector<float> flat = flat_parameters(folder / "safetensors-f32", spec);
        TrainingModel model(test_device(), spec, flat, micro * golden.length, keep);
        for (int64_t step = 0; step < golden.steps; ++step) {
          const std::vector<int32_t> ids = golden.step_ids(step);
          const std::vector<int32_t> targets = shifted(ids, golden.length);
          const auto scored = static_cast<double>(golden.batch * (golden.length - 1));
          double loss = 0;
          for (int64_t first = 0; first < golden.batch; first += micro) {
            const std::vector<int32_t> offsets = equal_offsets(micro, golden.length);
            const auto begin = static_cast<size_t>(first * golden.length),
                       count = static_cast<size_t>(micro * golden.length);
            loss += model.accumulate_gradients(
                {std::span(ids).subspan(begin, count), offsets}, std::span(targets).subspan(begin, count),
                {.gradient_scale = static_cast<float>(1 / scored), .first_row = first * golden.length});
          }
          const Json& expected = golden.manifest["goldens"]["train"];
          CHECK(std::abs(loss / scored - expected["loss"][static_cast<size_t>(step)].get<double>()) <= 1e-5);
          if (step == 0)
            for (const Parameter& parameter : model.layout().parameters()) {
              const StoredTensor* tensor = golden_tensor(gradients, tensor_name(spec, parameter));
              REQUIRE(tensor != nullptr);
              if (is_key_bias(parameter)) continue;
              const std::vector<float> want = tensor->values<float>();
              const float* got = model.gradients().as<float>() + parameter.offset;
              double largest = 0;
              for (const float value : want) largest = std::max(largest, std::abs(static_cast<double>(value)));
              CAPTURE(tensor_name(model.spec(), parameter));
              CHECK(largest_difference({got, got + parameter.size()}, want) <= 1e-6 + 1e-4 * largest);
            }
          const double norm = model.optimizer_step({.step = step + 1,
                                                    .learning_rate = optimizer["lr"],
                                                    .beta1 = optimizer["betas"][0],
                                                    .beta2 = optimizer["betas"][1],
                                                    .epsilon = optimizer["eps"],
                                                    .weight_decay = optimizer["weight_decay"],
                                                    .clip_norm = optimizer["clip_norm"]});
          const double expected_norm = expected["grad_norm"][static_cast<size_t>(step)];
          CHECK(std::abs(norm - expected_norm) <= 1e-5 * expected_norm);
          if (step == 0) check_parameters(model, TensorFile::open(folder / "params_after1.safetensors"));
        }
        check_parameters(model, TensorFile::open(folder / "params_after3.safetensors"));
      }
    }
  }
}

TEST_CASE("gradients of every kind of model equal finite differences, dropout included") {
  for (const auto& folder : std::filesystem::directory_iterator(kGoldenModels)) {
    CAPTURE(folder.path().string());
    ModelSpec spec;
    std::vector<float> flat = flat_parameters(
        folder.path() / (std::filesystem::exists(folder.path() / "safetensors-f32") ? "safetensors-f32" : "bin-f16"),
        spec);
    const std::vector<int32_t> ids = {5, 9, 3, 8, 7, 7, 2, 11, 4, 6};
    const std::vector<int32_t> targets = {9, 3, 8, -100, 7, 2, 11, 4, 6, 2};
    const std::vector<int32_t> offsets = {0, 4, 10};
    const BackwardOptions options{
        .gradient_scale = 0.1f, .dropout = 0.2f, .seed = 77, .step = 3, .first_row = 5, .dropout_columns = 16};
    TrainingModel model(test_device(), spec, flat, 10, Keep::block_inputs);
    model.accumulate_gradients({ids, offsets}, targets, options);
    const float* first_gradient = model.gradients().as<float>();
    const std::vector<float> gradient(first_gradient, first_gradient + model.layout().flat_size());
    for (const Parameter& parameter : model.layout().parameters()) {
      // The direction of the gradient itself: the steepest check of a whole tensor at once.
      double square = 0;
      for (int64_t i = 0; i < parameter.size(); ++i)
        square += std::pow(static_cast<double>(gradient[static_cast<size_t>(parameter.offset + i)]), 2);
      if (square < 1e-10) continue;
      const double step = 2e-3 / std::sqrt(square);
      float* weights = model.weights().as<float>();
      const auto loss_at = [&](double factor) {
        for (int64_t i = 0; i < parameter.size(); ++i) {
          const auto at = static_cast<size_t>(parameter.offset + i);
          weights[at] = flat[at] + static_cast<float>(factor * static_cast<double>(gradient[at]));
        }
        const double loss = model.accumulate_gradients({ids, offsets}, targets, options);
        for (int64_t i = 0; i < parameter.size(); ++i)
          weights[parameter.offset + i] = flat[static_cast<size_t>(parameter.offset + i)];
        return 0.1 * loss;
      };
      const double numeric = (loss_at(step) - loss_at(-step)) / (2 * step);
      CAPTURE(tensor_name(model.spec(), parameter));
      CHECK(numeric == doctest::Approx(square).epsilon(0.02));
    }
  }
}

TEST_CASE("the plan recomputes only what it must and refuses what cannot fit") {
  const ModelSpec spec = model_preset("small");
  Device* const device = &test_device();
  const auto plan = [&](int64_t budget_bytes) {
    return plan_training_memory({&device, 1}, spec, {.rows = 2048, .sequence_length = 256}, budget_bytes);
  };
  const TrainingMemory all = plan(0);
  CHECK(all.keep == Keep::everything);
  const TrainingMemory less = plan(all.total() - 1);
  CHECK(less.keep == Keep::all_but_feed_forward);
  const TrainingMemory least = plan(less.total() - 1);
  CHECK(least.keep == Keep::block_inputs);
  CHECK_THROWS(plan(least.total() - 1));
}

TEST_CASE("a model from scratch has the documented distribution") {
  const ModelSpec spec = model_preset("mini");
  const std::vector<float> flat = initial_parameters(spec, 7);
  CHECK(flat == initial_parameters(spec, 7));
  CHECK(flat != initial_parameters(spec, 8));
  const ParameterLayout layout(spec);
  const auto deviation = [&](ParameterRole role) {
    const Parameter& parameter = *layout.find(role, ParameterPart::weight, 0);
    double square = 0;
    for (int64_t i = 0; i < parameter.size(); ++i)
      square += std::pow(static_cast<double>(flat[static_cast<size_t>(parameter.offset + i)]), 2);
    return std::sqrt(square / static_cast<double>(parameter.size()));
  };
  CHECK(deviation(ParameterRole::feed_forward_in) == doctest::Approx(0.02).epsilon(0.02));
  CHECK(deviation(ParameterRole::feed_forward_out) == doctest::Approx(0.02 / std::sqrt(8.0)).epsilon(0.02));
  CHECK(flat[static_cast<size_t>(layout.find(ParameterRole::token_embedding)->offset + spec.embedding.width)] == 0);
  CHECK(flat[static_cast<size_t>(layout.find(ParameterRole::final_norm)->offset)] == 1);
}

}  // namespace
}  // namespace cbtm
