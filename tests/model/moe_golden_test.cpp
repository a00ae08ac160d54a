// Mixtures of experts against goldens of an independent implementation: the gate alone, and two models.

#include <algorithm>

#include "cbtm/device/model_operators.h"
#include "cbtm/model/families.h"
#include "cbtm/model/inference.h"
#include "cbtm/model/layer_routing.h"
#include "cbtm/model/training_model.h"
#include "tests/model/golden_model.h"
#include "tests/model/sequences.h"

namespace cbtm {
namespace {

const std::filesystem::path kGoldens = std::filesystem::path(CBTM_TEST_DATA) / "moe";

/// A routing in memory of the host, which is the CPU device's.
struct HostRouting {
  std::vector<float> logits, weights;
  std::vector<int32_t> choices, sorted_row, offsets, sources, first_counts;
  std::vector<double> statistics;
  ExpertRouting views;

  HostRouting(int64_t rows, int64_t experts)
      : logits(static_cast<size_t>(rows * experts)),
        weights(static_cast<size_t>(2 * rows)),
        choices(weights.size()),
        sorted_row(weights.size()),
        offsets(static_cast<size_t>(experts + 1)),
        sources(weights.size()),
        first_counts(static_cast<size_t>(experts)),
        statistics(static_cast<size_t>(RoutingStatistics::columns(experts))),
        views{.logits = view_of(logits.data(), rows, experts),
              .choices = view_of(choices.data(), rows, 2),
              .weights = view_of(weights.data(), rows, 2),
              .sorted_row = view_of(sorted_row.data(), rows, 2),
              .offsets = view_of(offsets.data(), 1, experts + 1),
              .sources = view_of(sources.data(), 1, 2 * rows),
              .first_counts = view_of(first_counts.data(), 1, experts)} {}
};

TEST_CASE("the gate alone: choices, slots, weights, counts and gradients") {
  const TensorFile golden = TensorFile::open(kGoldens / "gating.safetensors");
  const Json manifest = read_json_file(kGoldens / "gating.json");
  REQUIRE(manifest.size() >= 20);
  ModelOperators& operators = test_device().model_operators();
  for (const auto& [name, want] : manifest.items()) {
    CAPTURE(name);
    const bool training = name.ends_with(".train");
    const int64_t rows = want["tokens"], experts = want["experts"];
    // Times the identity, so that the logits are the input itself.
    const std::vector<float> input = golden.at(name.substr(0, name.rfind('.')) + ".logits").values<float>();
    std::vector<float> router(static_cast<size_t>(experts * experts));
    for (int64_t e = 0; e < experts; ++e) router[static_cast<size_t>(e * (experts + 1))] = 1;
    HostRouting routing(rows, experts);
    operators.route_tokens({.input = view_of(input.data(), rows, experts),
                            .router = view_of(router.data(), experts, experts),
                            .capacity = training ? want["capacity"].get<int64_t>() : 0,
                            .routing = routing.views,
                            .statistics = view_of(routing.statistics.data(), 1, RoutingStatistics::columns(experts))});
    CHECK(routing.logits == input);
    CHECK(routing.choices == golden.at(name + ".experts").values<int32_t>());
    const std::vector<int32_t> slots = golden.at(name + ".slots").values<int32_t>();
    for (size_t i = 0; i < slots.size(); ++i) {
      const int32_t kept = routing.offsets[static_cast<size_t>(routing.choices[i])] + slots[i];
      CHECK(routing.sorted_row[i] == (slots[i] < want["capacity"].get<int32_t>() ? kept : -1));
    }
    CHECK(largest_difference(routing.weights, golden.at(name + ".weights").values<float>()) <= 2e-7);

    const auto count = [&](int64_t column) {
      return static_cast<int64_t>(routing.statistics[static_cast<size_t>(column)]);
    };
    int64_t dropped_first = 0, dropped_second = 0;
    for (int64_t e = 0; e < experts; ++e) {
      const auto at = static_cast<size_t>(e);
      CHECK(count(RoutingStatistics::first_choices(e)) == want["first_choices"][at].get<int64_t>());
      CHECK(count(RoutingStatistics::second_choices(experts, e)) == want["second_choices"][at].get<int64_t>());
      CHECK(count(RoutingStatistics::kept(experts, e)) == want["kept"][at].get<int64_t>());
      dropped_first += want["dropped_first"][at].get<int64_t>();
      dropped_second += want["dropped_second"][at].get<int64_t>();
    }
    CHECK(count(RoutingStatistics::dropped_first(experts)) == dropped_first);
    CHECK(count(RoutingStatistics::dropped_second(experts)) == dropped_second);
    CHECK(count(RoutingStatistics::dropped_both(experts)) == want["tokens_with_both_dropped"].get<int64_t>());
    const double balance = routing.statistics[static_cast<size_t>(RoutingStatistics::balance(experts))];
    CHECK(balance / static_cast<double>(rows) == doctest::Approx(want["balance_loss"].get<double>()).epsilon(1e-6));

    // Of Σ weights * pull + 0.01 * balance loss.
    const std::vector<float> pull = golden.at(name + ".weights_gradient").values<float>();
    std::vector<float> logit_gradients(input.size()), input_gradient(input.size()), router_gradient(router.size());
    operators.route_tokens_backward({.input = view_of(input.data(), rows, experts),
                                     .router = view_of(router.data(), experts, experts),
                                     .routing = routing.views,
                                     .weight_gradients = view_of(pull.data(), rows, 2),
                                     .balance_scale = 0.01f / static_cast<float>(rows),
                                     .logit_gradients = view_of(logit_gradients.data(), rows, experts),
                                     .input_gradient = view_of(input_gradient.data(), rows, experts),
                                     .router_gradient = view_of(router_gradient.data(), experts, experts)});
    const std::vector<float> gradient = golden.at(name + ".logits_gradient").values<float>();
    CHECK(largest_difference(logit_gradients, gradient) <= 1e-6);
    CHECK(largest_difference(input_gradient, gradient) <= 1e-6);
  }
}

class MoeGolden {
 public:
  explicit MoeGolden(const char* name) : folder(kGoldens / name), manifest(read_json_file(folder / "manifest.json")) {
    const TensorFile file = TensorFile::open(folder / "train_ids.safetensors");
    const StoredTensor& tensor = file.tensors().front();
    blocks = tensor.values<int32_t>();
    batch = tensor.shape[1];
    length = tensor.shape[2] - 1;
  }
  std::vector<float> parameters(ModelSpec& spec) const {
    const ModelCheckpoint checkpoint = ModelCheckpoint::open(folder / "moe-f16");
    spec = checkpoint.spec();
    std::vector<float> flat(static_cast<size_t>(checkpoint.layout().flat_size()));
    checkpoint.read_parameters(DType::f32, flat.data());
    return flat;
  }
  /// Sequences `first` .. `first + count` of a step: inputs are all but the last token, targets all but the first.
  void add_gradients(TrainingModel& model, int64_t step, int64_t first, int64_t count, double& loss) const {
    std::vector<int32_t> ids, targets;
    for (int64_t s = first; s < first + count; ++s) {
      const auto begin = blocks.begin() + (step * batch + s) * (length + 1);
      ids.insert(ids.end(), begin, begin + length);
      targets.insert(targets.end(), begin + 1, begin + length + 1);
    }
    const std::vector<int32_t> offsets = equal_offsets(count, length);
    loss += model.accumulate_gradients(
        {ids, offsets}, targets,
        {.gradient_scale = 1 / static_cast<float>(batch * length), .first_row = first * length});
  }

  std::filesystem::path folder;
  Json manifest;
  std::vector<int32_t> blocks;
  int64_t batch = 0, length = 0;
};

const StoredTensor& golden_tensor(const TensorFile& file, const ModelSpec& spec, const Parameter& parameter) {
  return file.at("model.decoder." + tensor_name(spec, parameter));
}

/// Gradient zero up to noise, so its step is noise.
bool is_key_bias(const Parameter& parameter) {
  return parameter.role == ParameterRole::key && parameter.part == ParameterPart::bias;
}

void check_gradients(const TrainingModel& model, const TensorFile& golden, bool all) {
  int64_t compared = 0;
  for (const Parameter& parameter : model.layout().parameters()) {
    if (is_key_bias(parameter)) continue;
    if (!all && golden.find("model.decoder." + tensor_name(model.spec(), parameter)) == nullptr) continue;
    const std::vector<float> want = golden_tensor(golden, model.spec(), parameter).values<float>();
    const float* got = model.gradients().as<float>() + parameter.offset;
    double largest = 0;
    for (const float value : want) largest = std::max(largest, std::abs(static_cast<double>(value)));
    CAPTURE(tensor_name(model.spec(), parameter));
    CHECK(largest_difference({got, got + parameter.size()}, want) <= 1e-6 + 1e-4 * largest);
    ++compared;
  }
  CHECK(compared > 0);
}

void check_weights(const TrainingModel& model, const TensorFile& golden) {
  int64_t compared = 0, off = 0;
  for (const Parameter& parameter : model.layout().parameters()) {
    if (is_key_bias(parameter)) continue;
    const std::vector<float> want = golden_tensor(golden, model.spec(), parameter).values<float>();
    const float* got = model.weights().as<float>() + parameter.offset;
    CAPTURE(tensor_name(model.spec(), parameter));
    CHECK(largest_difference({got, got + parameter.size()}, want) <= 5e-5);
    for (size_t i = 0; i < want.size(); ++i) off += std::abs(got[i] - want[i]) > 2e-6f ? 1 : 0;
    compared += parameter.size();
  }
  CHECK(off * 1000 <= compared);
}

void check_routing(const LayerRouting& got, const Json& want) {
  CAPTURE(got.layer);
  CHECK(Json(got.first_choices) == want["first_choices"]);
  CHECK(Json(got.second_choices) == want["second_choices"]);
  CHECK(Json(got.kept) == want["kept"]);
  int64_t first = 0, second = 0;
  for (const Json& dropped : want["dropped_first"]) first += dropped.get<int64_t>();
  for (const Json& dropped : want["dropped_second"]) second += dropped.get<int64_t>();
  CHECK(got.dropped_first == first);
  CHECK(got.dropped_second == second);
  CHECK(got.dropped_both == want["tokens_with_both_dropped"].get<int64_t>());
  CHECK(got.balance_loss == doctest::Approx(want["balance_loss"].get<double>()).epsilon(1e-5));
}

constexpr const char* kNames[] = {"e4-odd", "e8-one-dense"};

TEST_CASE("sizes and forward operations") {
  for (const char* name : kNames) {
    CAPTURE(name);
    const MoeGolden golden(name);
    const ModelSpec spec = read_model_spec(golden.folder / "moe-f16/config.json");
    const ParameterLayout layout(spec);
    CHECK(spec.family == "opt_moe");
    CHECK(layout.parameter_count() == golden.manifest["num_parameters"].get<int64_t>());
    CHECK(layout.active_parameter_count() == golden.manifest["num_active_parameters"].get<int64_t>());
    // Ours are at a context of half the sequence length.
    const auto length = static_cast<int64_t>(2 * golden.manifest["flops"]["context"].get<double>());
    CHECK(spec.forward_flops_per_token(length) == golden.manifest["flops"]["moe"].get<double>());
    const ModelSpec dense = read_model_spec(golden.folder / "dense-f16/config.json");
    CHECK(dense.forward_flops_per_token(length) == golden.manifest["flops"]["dense"].get<double>());
    CHECK(ParameterLayout(dense).active_parameter_count() == ParameterLayout(dense).parameter_count());
  }
}

TEST_CASE("logits of mixtures, and of the dense models that they were made from") {
  for (const char* name : kNames) {
    const MoeGolden golden(name);
    const TensorFile forward = TensorFile::open(golden.folder / "forward.safetensors");
    for (const char* kind : {"moe", "dense"}) {
      const auto model = InferenceModel::load(test_device(), golden.folder / (std::string(kind) + "-f16"));
      for (const Json& length : golden.manifest["evaluation"]["lengths"]) {
        CAPTURE(name);
        CAPTURE(kind);
        const std::string prefix = "len" + std::to_string(length.get<int64_t>());
        Sequences sequences;
        sequences.add(forward.at(prefix + ".ids").values<int32_t>());
        const std::string want = prefix + (kind == std::string("moe") ? ".logits" : ".dense_logits");
        CHECK(largest_difference(logits_of(*model, sequences.packed()), forward.at(want).values<float>()) <= 1e-4);
      }
    }
  }
}

TEST_CASE("losses, routing, gradients and three AdamW steps of mixtures, whatever is recomputed") {
  for (const char* name : kNames)
    for (const Keep keep : {Keep::everything, Keep::all_but_feed_forward, Keep::block_inputs}) {
      CAPTURE(name);
      CAPTURE(static_cast<int>(keep));
      const MoeGolden golden(name);
      const Json& train = golden.manifest["train"];
      const Json& optimizer = golden.manifest["optimizer"];
      ModelSpec spec;
      const std::vector<float> flat = golden.parameters(spec);
      TrainingModel model(test_device(), spec, flat, golden.batch * golden.length, keep);
      for (int64_t step = 0; step < 3; ++step) {
        const Json& want = train["steps"][static_cast<size_t>(step)];
        double loss = 0;
        golden.add_gradients(model, step, 0, golden.batch, loss);
        loss /= static_cast<double>(golden.batch * golden.length);
        CHECK(std::abs(loss - want["cross_entropy"].get<double>()) <= 1e-5);
        if (step == 0) check_gradients(model, TensorFile::open(golden.folder / "grads_step1.safetensors"), true);
        const StepResult done = model.finish_step({.step = step + 1,
                                                   .learning_rate = optimizer["lr"],
                                                   .beta1 = optimizer["betas"][0],
                                                   .beta2 = optimizer["betas"][1],
                                                   .epsilon = optimizer["eps"],
                                                   .weight_decay = optimizer["weight_decay"],
                                                   .clip_norm = optimizer["clip_norm"]});
        CHECK(done.gradient_norm == doctest::Approx(want["grad_norm"].get<double>()).epsilon(1e-5));
        double balance = 0;
        for (const LayerRouting& layer : layer_routing(spec, done.routing_statistics)) {
          check_routing(layer, want["layers"][std::to_string(layer.layer)]);
          balance += layer.balance_loss;
        }
        CHECK(loss + 0.01 * balance == doctest::Approx(want["loss"].get<double>()).epsilon(1e-6));
        if (step == 0) check_weights(model, TensorFile::open(golden.folder / "params_after1.safetensors"));
      }
      check_weights(model, TensorFile::open(golden.folder / "params_after3.safetensors"));
    }
}

TEST_CASE("each micro-batch has a capacity and a balance loss of its own; a validation drops nothing") {
  for (const char* name : kNames) {
    CAPTURE(name);
    const MoeGolden golden(name);
    const Json& accumulated = golden.manifest["train"]["accumulated"];
    ModelSpec spec;
    const std::vector<float> flat = golden.parameters(spec);
    TrainingModel model(test_device(), spec, flat, golden.batch * golden.length, Keep::everything);
    int64_t first = 0;
    double loss = 0, balance = 0;
    for (const Json& micro : accumulated["micro_batches"]) {
      const int64_t rows = micro["rows"];
      golden.add_gradients(model, 0, first, rows, loss);
      balance +=
          micro["balance_loss_sum"].get<double>() * static_cast<double>(rows) / static_cast<double>(golden.batch);
      first += rows;
    }
    check_gradients(model, TensorFile::open(golden.folder / "grads_accumulated.safetensors"), false);
    const StepResult done = model.finish_step({.learning_rate = 0});
    CHECK(done.gradient_norm == doctest::Approx(accumulated["grad_norm"].get<double>()).epsilon(1e-5));
    double got = 0;
    for (const LayerRouting& layer : layer_routing(spec, done.routing_statistics)) got += layer.balance_loss;
    CHECK(got == doctest::Approx(balance).epsilon(1e-5));
    const double total = loss / static_cast<double>(golden.batch * golden.length) + 0.01 * got;
    CHECK(std::abs(total - accumulated["loss"].get<double>()) <= 1e-5);

    std::vector<int32_t> ids, targets;
    for (int64_t s = 0; s < golden.batch; ++s) {
      const auto begin = golden.blocks.begin() + s * (golden.length + 1);
      ids.insert(ids.end(), begin, begin + golden.length);
      targets.insert(targets.end(), begin + 1, begin + golden.length + 1);
    }
    const std::vector<int32_t> offsets = equal_offsets(golden.batch, golden.length);
    const double validation = model.loss_sum({ids, offsets}, targets) / static_cast<double>(ids.size());
    CHECK(std::abs(validation - golden.manifest["train"]["nothing_dropped_cross_entropy"].get<double>()) <= 1e-5);
    CHECK(model.finish_step({.step = 2, .learning_rate = 0}).routing_statistics ==
          std::vector<double>(done.routing_statistics.size()));
  }
}

}  // namespace
}  // namespace cbtm
