#include "cbtm/accounting/model_cost.h"

#include <doctest/doctest.h>

#include <cmath>

#include "cbtm/accounting/inference_cost.h"
#include "cbtm/device/device.h"
#include "cbtm/model/families.h"
#include "cbtm/model/inference.h"
#include "cbtm/model/inference_memory.h"
#include "cbtm/model/parameter_layout.h"
#include "cbtm/model/upcycle.h"

namespace cbtm {
namespace {

/// Multiply-adds of a decoder, counted by walking through its loops: one for every product that a forward pass forms.
/// Token t of a sequence attends to t + 1 keys.
int64_t counted_multiply_adds(const ModelSpec& spec, int64_t length) {
  int64_t count = 0;
  const auto product = [&](int64_t inputs, int64_t outputs) {
    for (int64_t output = 0; output < outputs; ++output) count += inputs;
  };
  for (int64_t token = 0; token < length; ++token) {
    if (spec.embedding.width != spec.hidden_size) product(spec.embedding.width, spec.hidden_size);
    for (const BlockSpec& block : spec.blocks) {
      const int64_t width = block.attention.heads * block.attention.head_dim;
      for (int projection = 0; projection < 3; ++projection) product(spec.hidden_size, width);
      for (int64_t head = 0; head < block.attention.heads; ++head)
        for (int64_t key = 0; key <= token; ++key)
          count += 2 * block.attention.head_dim;  // the score; the value's share
      product(width, spec.hidden_size);
      product(spec.hidden_size, block.feed_forward.width);
      product(block.feed_forward.width, spec.hidden_size);
    }
    if (spec.embedding.width != spec.hidden_size) product(spec.hidden_size, spec.embedding.width);
    product(spec.embedding.width, spec.embedding.vocab_size);
  }
  return count;
}

TEST_CASE("FLOPs by formula are those of a forward pass, counted product by product") {
  for (const char* name : {"nano", "micro", "350m"}) {  // 350m: projections around the blocks
    CAPTURE(name);
    ModelSpec spec = model_preset(name);
    spec.embedding.vocab_size = 512;
    constexpr int64_t kLength = 5;
    double formula = 0;
    for (int64_t token = 0; token < kLength; ++token) formula += forward_flops(spec, static_cast<double>(token + 1));
    CHECK(formula == 2.0 * static_cast<double>(counted_multiply_adds(spec, kLength)));
  }
}

TEST_CASE("training takes three forward passes at half the sequence as context") {
  const ModelSpec spec = model_preset("mini");
  CHECK(training_flops(spec, 256) == 3 * forward_flops(spec, 128));
  CHECK(training_flops(spec, 256) == 3 * spec.forward_flops_per_token(256));
  // The exact mean context is (S + 1) / 2: half a key more in each block, which is left out.
  double exact = 0;
  for (int64_t token = 0; token < 256; ++token) exact += 3 * forward_flops(spec, static_cast<double>(token + 1));
  CHECK(exact / 256 - training_flops(spec, 256) == doctest::Approx(3.0 * 4 * 4 * 192 * 0.5).epsilon(1e-6));
}

TEST_CASE("parameters and bytes of published models") {
  const ModelSpec small = model_preset("125m"), large = model_preset("1.3b");
  CHECK(total_parameters(small) == 125'239'296);  // as published
  CHECK(total_parameters(large) == 1'315'758'080);
  CHECK(active_parameters(large) == total_parameters(large));
  CHECK(checkpoint_bytes(small) == 4 * 125'239'296);
  CHECK(training_state_bytes(small) == 3 * 4 * ParameterLayout(small).flat_size());
  CHECK(key_value_bytes(large, DType::f32) == 2 * 24 * 2048 * 4);
  CHECK(key_value_bytes(large, DType::bf16) == 2 * 24 * 2048 * 2);
}

/// Bytes that one device sends when the ring is walked through: in each of n - 1 rounds it sends one n-th of the
/// buffer.
double walked_ring(double bytes, int64_t devices) {
  double sent = 0;
  for (int64_t round = 1; round < devices; ++round) sent += bytes / static_cast<double>(devices);
  return sent;
}

TEST_CASE("a mixture of experts: parameters and FLOPs, written out") {
  const ModelSpec dense = model_preset("mini");  // 4 layers, d = 192, f = 768
  const ModelSpec mixture = upcycled_spec(dense, {.experts = 8, .layers = odd_layers(dense)});
  constexpr int64_t kExpert = 2 * 192 * 768 + 192 + 768, kRouter = 8 * 192;
  CHECK(total_parameters(mixture) == total_parameters(dense) + 2 * (7 * kExpert + kRouter));
  CHECK(active_parameters(mixture) == total_parameters(dense) + 2 * (kExpert + kRouter));
  CHECK(forward_flops(mixture, 10) == forward_flops(dense, 10) + 2.0 * (4 * 192 * 768 + 2 * 192 * 8));
  const InferenceCost cost = inference_cost({.model = mixture}, 10, WeightFormat::f32, DType::f32);
  CHECK(cost.active_weight_bytes < cost.weight_bytes);
  CHECK(cost.weight_bytes == inference_weight_bytes(mixture, WeightFormat::f32));
  // In proportion to the parameters.
  CHECK(cost.active_weight_bytes ==
        std::llround(static_cast<double>(cost.active_parameters) / static_cast<double>(cost.parameters) *
                     static_cast<double>(cost.weight_bytes)));
}

TEST_CASE("the exchange of a step is that of rings, walked through") {
  const ModelSpec spec = model_preset("nano");
  const ParameterLayout layout(spec);
  const auto matrices = static_cast<double>(layout.matrix_flat_size());
  const auto vectors = static_cast<double>(layout.flat_size()) - matrices;
  for (const int64_t devices : {1, 2, 3, 8}) {
    CAPTURE(devices);
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const double item = dtype == DType::f32 ? 4 : 2;
      const double walked = walked_ring(4 * matrices, devices) + walked_ring(item * matrices, devices) +
                            2 * walked_ring(4 * vectors, devices);
      CHECK(static_cast<double>(exchange_bytes(spec, dtype, devices)) == doctest::Approx(walked).epsilon(1e-6));
    }
  }
  CHECK(exchange_bytes(spec, DType::f32, 1) == 0);
}

TEST_CASE("the weights of inference take what a loaded model takes") {
  const auto device = make_cpu_device();
  const std::filesystem::path directory =
      std::filesystem::path(CBTM_TEST_DATA) / "opt/models/tiny-preln/safetensors-f32";
  const ModelSpec spec = read_model_spec(model_config_file(directory));
  for (const WeightFormat format : {WeightFormat::f32, WeightFormat::bf16, WeightFormat::int8, WeightFormat::int4}) {
    CAPTURE(weight_format_name(format));
    const auto model = InferenceModel::load(*device, directory, format);
    CHECK(inference_weight_bytes(spec, format) == model->weight_bytes());
    CHECK(key_value_bytes(spec, DType::f32) == model->key_value_bytes());
  }
}

TEST_CASE("an ensemble's inference costs its active experts and a router that is nothing beside them") {
  const ModelSpec spec = model_preset("1.3b");
  const InferenceCost dense = inference_cost({.model = spec}, 1024, WeightFormat::bf16, DType::bf16);
  CHECK(dense.flops == forward_flops(spec, 1024));
  CHECK(dense.router_flops == 0);
  const InferenceCost ensemble =
      inference_cost({.model = spec, .experts = 16, .active_experts = 4, .router_dimensions = 100}, 1024,
                     WeightFormat::bf16, DType::bf16);
  CHECK(ensemble.flops == 4 * dense.flops);
  CHECK(ensemble.latency_flops == dense.flops);
  CHECK(ensemble.parameters == 16 * dense.parameters);
  CHECK(ensemble.active_parameters == 4 * dense.active_parameters);
  CHECK(ensemble.weight_bytes == 16 * dense.weight_bytes);
  CHECK(ensemble.active_weight_bytes == 4 * dense.active_weight_bytes);
  CHECK(ensemble.key_value_bytes == 4 * dense.key_value_bytes);
  CHECK(ensemble.router_flops == 100 * (5 + 3 * 16));
  CHECK(ensemble.router_flops < 1e-5 * ensemble.flops);
}

}  // namespace
}  // namespace cbtm
