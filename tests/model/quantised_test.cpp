// Models with int8 and int4 weights, beside float32 models of the values that those weights stand for.

#include <cmath>
#include <cstring>

#include "cbtm/base/error.h"
#include "cbtm/base/half_types.h"
#include "cbtm/base/philox.h"
#include "cbtm/device/model_operators.h"
#include "cbtm/device/quantise.h"
#include "cbtm/model/families.h"
#include "cbtm/model/inference.h"
#include "cbtm/model/training_model.h"
#include "tests/model/golden_model.h"
#include "tests/model/rounding_bound.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

bool int4_by_rule(const Parameter& parameter, WeightFormat format) {
  return format == WeightFormat::int4 && parameter.role != ParameterRole::token_embedding &&
         parameter.role != ParameterRole::output_matrix;
}

/// The standard deviation, relative to the root mean square of a row, of rounding activations for a product with such
/// weights, as the CPU may. bf16: uniform within 2^-8 of the power of two below a number, 0.4 * 2^-8 of the number.
/// int8: uniform within half a step, which is at most 2 / 127 of the largest value of a group (docs/numerics.md,
/// 'Activations of int8 weights'); in groups of up to 64 normal numbers that is 2.5 times their root mean square on
/// average.
double activation_deviation(WeightFormat format, const Parameter& parameter) {
  if (int4_by_rule(parameter, format)) return 0;
  return format == WeightFormat::bf16 ? 0.4 * 0x1p-8 : 2.5 * 2 / 127 / std::sqrt(12.0);
}

/// The checkpoint with every matrix rounded to what `format` can say; the positions stay float32 with int8 and int4.
/// `noisy`: then each weight times 1 + noise, as large as the rounding of the activation that it is multiplied with:
/// the terms of a sum are then off by as much as with rounded activations.
void write_rounded(const std::filesystem::path& from, const std::filesystem::path& to, WeightFormat format,
                   bool noisy = false) {
  PhiloxStream noise(1, 0);
  const ModelCheckpoint checkpoint = ModelCheckpoint::open(from);
  std::vector<float> flat(static_cast<size_t>(checkpoint.layout().flat_size()));
  checkpoint.read_parameters(DType::f32, flat.data());
  for (const Parameter& parameter : checkpoint.layout().parameters()) {
    if (!parameter.is_matrix) continue;
    const auto add_noise = [&] {
      const double deviation = noisy ? activation_deviation(format, parameter) : 0;
      for (int64_t i = parameter.offset; i < parameter.offset + parameter.size(); ++i)
        flat[static_cast<size_t>(i)] *=
            static_cast<float>(1 + deviation * std::sqrt(12.0) * (noise.next_uniform() - 0.5));
    };
    if (format == WeightFormat::bf16) {
      for (int64_t i = parameter.offset; i < parameter.offset + parameter.size(); ++i)
        flat[static_cast<size_t>(i)] = to_float(to_bf16(flat[static_cast<size_t>(i)]));
      if (parameter.role != ParameterRole::position_embedding) add_noise();
      continue;
    }
    if (parameter.role == ParameterRole::position_embedding) continue;
    const int64_t columns = parameter.columns;
    for (int64_t row = 0; row < parameter.rows; ++row) {
      float* values = flat.data() + parameter.offset + row * columns;
      if (int4_by_rule(parameter, format)) {
        std::vector<uint8_t> codes(static_cast<size_t>(int4_groups(columns) * kInt4GroupBytes));
        std::vector<f16> scales(static_cast<size_t>(int4_groups(columns)));
        REQUIRE(quantise_int4(values, columns, codes.data(), scales.data()));
        dequantise_int4(codes.data(), scales.data(), columns, values);
      } else {
        std::vector<int8_t> codes(static_cast<size_t>(columns));
        float scale = 0;
        REQUIRE(quantise_int8(values, columns, codes.data(), scale));
        for (int64_t i = 0; i < columns; ++i) values[i] = scale * static_cast<float>(codes[static_cast<size_t>(i)]);
      }
    }
    add_noise();
  }
  std::filesystem::create_directories(to);
  write_model_checkpoint(to, checkpoint.spec(), flat);
}

struct Outputs {
  std::vector<float> logits, log_probabilities, next;
};

Outputs outputs_of(InferenceModel& model) {
  const auto vocab = static_cast<int32_t>(model.vocab_size());
  std::vector<int32_t> ids, targets;
  for (int32_t i = 0; i < 40; ++i) {
    ids.push_back((i * 37 + 5) % vocab);
    targets.push_back((i * 91 + 3) % vocab);
  }
  const std::vector<int32_t> offsets = {0, 1, 17, 40};
  const PackedTokens tokens{ids, offsets};
  Outputs out{.logits = std::vector<float>(ids.size() * static_cast<size_t>(vocab)),
              .log_probabilities = std::vector<float>(ids.size()),
              .next = std::vector<float>(2 * static_cast<size_t>(vocab))};
  model.logits(tokens, out.logits);
  model.target_log_probabilities(tokens, targets, out.log_probabilities);
  const std::vector<int64_t> handles = {model.open_sequence(), model.open_sequence()};
  const std::vector<int32_t> prompts = {0, 11, 30}, singles = {0, 1, 2};
  model.extend(handles, {std::span(ids).first(30), prompts}, out.next);
  model.extend(handles, {std::span(ids).subspan(30, 2), singles}, out.next);
  for (const int64_t handle : handles) model.close_sequence(handle);
  return out;
}

/// The golden GPT-2 with an output matrix of its own.
void write_untied(const std::filesystem::path& directory) {
  const std::filesystem::path tied = std::filesystem::path(CBTM_TEST_DATA) / "families/models/gpt2/hub-f32";
  Json config = read_json_file(tied / "config.json");
  config["tie_word_embeddings"] = false;
  config["initializer_range"] = 0.5;  // logits as large as a trained model's
  const ModelSpec spec = parse_model_spec(config, "the test");
  std::filesystem::create_directories(directory);
  write_model_checkpoint(directory, spec, initial_parameters(spec, 7));
}

TEST_CASE("bf16, int8 and int4 weights give what the values they stand for give") {
  const TemporaryDirectory directory;
  write_untied(directory / "untied");
  const std::filesystem::path families = std::filesystem::path(CBTM_TEST_DATA) / "families/models";
  for (const std::filesystem::path& original :
       {kGoldenModels / "tiny-preln/safetensors-f32", kGoldenModels / "tiny-postln-proj/safetensors-f32",
        families / "gpt2/hub-f32", directory / "untied"}) {
    for (const WeightFormat format : {WeightFormat::bf16, WeightFormat::int8, WeightFormat::int4}) {
      CAPTURE(original.string());
      CAPTURE(static_cast<int>(format));
      const std::filesystem::path rounded_path = directory / ("rounded" + std::to_string(static_cast<int>(format)));
      write_rounded(original, rounded_path, format);
      const auto quantised = InferenceModel::load(test_device(), original, format);
      const std::filesystem::path noisy_path = directory / ("noisy" + std::to_string(static_cast<int>(format)));
      write_rounded(original, noisy_path, format, true);
      const auto rounded = InferenceModel::load(test_device(), rounded_path);
      const auto noisy = InferenceModel::load(test_device(), noisy_path);
      const Outputs got = outputs_of(*quantised), want = outputs_of(*rounded), off = outputs_of(*noisy);
      // Two draws of errors of one size, at least 40 each: neither's largest is three times the other's.
      const double tolerance = logit_tolerance(read_model_spec(original / "config.json"), 32, want.logits);
      const auto check = [&](const std::vector<float>& one, const std::vector<float>& exact,
                             const std::vector<float>& noise) {
        CHECK(largest_difference(one, exact) <= tolerance + 3 * largest_difference(noise, exact));
      };
      check(got.logits, want.logits, off.logits);
      check(got.log_probabilities, want.log_probabilities, off.log_probabilities);
      check(got.next, want.next, off.next);
      std::filesystem::remove_all(rounded_path);
      std::filesystem::remove_all(noisy_path);
      if (original.string().find("gpt2") != std::string::npos && format == WeightFormat::bf16)
        continue;  // on bf16's grid
      const auto exact = InferenceModel::load(test_device(), original);
      CHECK(largest_difference(got.logits, outputs_of(*exact).logits) > 1e-3);  // they are rounded indeed
      if (format != WeightFormat::bf16) CHECK(quantised->weight_bytes() < exact->weight_bytes() / 2);
    }
  }
}

TEST_CASE("a value that is not finite is not quantised") {
  const TemporaryDirectory directory;
  const ModelCheckpoint checkpoint = ModelCheckpoint::open(kGoldenModels / "tiny-preln/safetensors-f32");
  std::vector<float> flat(static_cast<size_t>(checkpoint.layout().flat_size()));
  checkpoint.read_parameters(DType::f32, flat.data());
  const Parameter& parameter = *checkpoint.layout().find(ParameterRole::feed_forward_in, ParameterPart::weight, 0);
  flat[static_cast<size_t>(parameter.offset + 3 * parameter.columns + 1)] = INFINITY;
  std::filesystem::create_directories(directory.path() / "model");
  write_model_checkpoint(directory.path() / "model", checkpoint.spec(), flat);
  for (const WeightFormat format : {WeightFormat::int8, WeightFormat::int4}) {
    std::string message;
    try {
      InferenceModel::load(test_device(), directory.path() / "model", format);
    } catch (const Error& error) {
      message = error.what();
    }
    CHECK(message.find("layers.0.fc1.weight' holds 1 NaN or infinite value") != std::string::npos);
  }
}

}  // namespace
}  // namespace cbtm
