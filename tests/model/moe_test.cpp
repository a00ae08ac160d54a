// What must hold of every mixture of experts: it begins as the dense model, a cache changes nothing, a token's logits
// do not depend on its neighbours, and gradients are those of the loss.

#include <cmath>

#include "cbtm/base/philox.h"
#include "cbtm/model/inference.h"
#include "cbtm/model/layer_routing.h"
#include "cbtm/model/training_model.h"
#include "cbtm/model/upcycle.h"
#include "tests/model/golden_model.h"
#include "tests/model/sequences.h"
#include "tests/opt_shape.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

OptShape dense_shape(bool pre_norm) {
  return {.vocab_size = 71,
          .hidden_size = 36,
          .num_hidden_layers = 3,
          .num_attention_heads = 3,
          .ffn_dim = 52,
          .max_position_embeddings = 40,
          .word_embed_proj_dim = pre_norm ? 36 : 20,
          .do_layer_norm_before = pre_norm};
}

/// Of a deviation that makes logits differ, unlike 0.02.
std::vector<float> drawn_parameters(const ModelSpec& spec, uint64_t seed) {
  ModelSpec wide = spec;
  wide.initial_deviation = 0.2;
  return initial_parameters(wide, seed);
}

/// The mixture of a dense model, with experts that have gone ways of their own by `noise`.
std::vector<float> mixture_of(const ModelSpec& dense, const Upcycling& upcycling, double noise) {
  const ModelSpec spec = upcycled_spec(dense, upcycling);
  const ParameterLayout layout(spec);
  std::vector<float> flat(static_cast<size_t>(layout.flat_size()));
  upcycle_parameters(dense, upcycling, drawn_parameters(dense, 3), flat);
  PhiloxStream random(8, 0);
  for (const Parameter& parameter : layout.parameters())
    for (int64_t i = 0; i < parameter.size() && parameter.expert >= 0; ++i)
      flat[static_cast<size_t>(parameter.offset + i)] += static_cast<float>(noise * random.next_normal());
  return flat;
}

std::unique_ptr<InferenceModel> loaded(const TemporaryDirectory& directory, const ModelSpec& spec,
                                       std::span<const float> flat, WeightFormat weights = WeightFormat::f32) {
  write_model_checkpoint(directory.path(), spec, flat);
  return InferenceModel::load(test_device(), directory.path(), weights);
}

std::vector<int32_t> drawn_ids(size_t count, uint64_t seed) {
  PhiloxStream random(seed, 1);
  std::vector<int32_t> ids(count);
  for (int32_t& id : ids) id = static_cast<int32_t>(random.next_below(71));
  return ids;
}

TEST_CASE("before any step a mixture has the dense model's logits, whatever its routers hold") {
  for (const bool pre_norm : {true, false})
    for (const RouterInit init : {RouterInit::uniform, RouterInit::normal})
      for (const auto& [experts, layers] :
           {std::pair<int64_t, std::vector<int64_t>>{2, {1}}, {5, {0, 2}}, {8, {0, 1, 2}}, {33, {2}}}) {
        CAPTURE(pre_norm);
        CAPTURE(experts);
        const ModelSpec dense = dense_shape(pre_norm);
        const Upcycling upcycling{.experts = experts, .layers = layers, .router_init = init, .seed = 17};
        const ModelSpec spec = upcycled_spec(dense, upcycling);
        CHECK(spec.mixture_layers() == layers);
        const TemporaryDirectory of_dense, of_mixture;
        Sequences sequences;
        for (const size_t length : {size_t{1}, size_t{40}, size_t{13}}) sequences.add(drawn_ids(length, length));
        const std::vector<float> want =
            logits_of(*loaded(of_dense, dense, drawn_parameters(dense, 3)), sequences.packed());
        const std::vector<float> got =
            logits_of(*loaded(of_mixture, spec, mixture_of(dense, upcycling, 0)), sequences.packed());
        // The two weights of a token add up to 1 but for a rounding, and products of other sizes round otherwise.
        double largest = 0;
        for (const float value : want) largest = std::max(largest, std::abs(static_cast<double>(value)));
        CHECK(largest_difference(got, want) <= 1e-5 * largest);
        CHECK(largest > 1);
      }
}

TEST_CASE("decoding with a cache gives the logits of the whole forward pass") {
  const ModelSpec dense = dense_shape(true);
  const Upcycling upcycling{.experts = 4, .layers = {0, 2}, .seed = 2};
  const ModelSpec spec = upcycled_spec(dense, upcycling);
  const TemporaryDirectory directory;
  const auto model = loaded(directory, spec, mixture_of(dense, upcycling, 0.1));
  const std::vector<int32_t> ids = drawn_ids(30, 5);
  Sequences whole;
  whole.add(ids);
  const std::vector<float> want = logits_of(*model, whole.packed());
  const auto vocab_size = static_cast<size_t>(model->vocab_size());
  const int64_t handle = model->open_sequence();
  for (size_t begin = 0; begin < ids.size();) {
    const size_t count = begin < 8 ? 8 : 1;  // the prompt, then a token at a time
    Sequences piece;
    piece.add(std::span(ids).subspan(begin, count));
    std::vector<float> logits(vocab_size);
    model->extend({&handle, 1}, piece.packed(), logits, begin < 8 ? RowSums::prompt : RowSums::decode);
    begin += count;
    const auto first = want.begin() + static_cast<int64_t>((begin - 1) * vocab_size);
    CHECK(largest_difference(logits, {first, first + static_cast<int64_t>(vocab_size)}) <= 2e-5);
  }
}

TEST_CASE("a token's bits do not depend on the sequences beside it") {
  const ModelSpec dense = dense_shape(true);
  const Upcycling upcycling{.experts = 3, .layers = {0, 1, 2}, .seed = 2};
  const ModelSpec spec = upcycled_spec(dense, upcycling);
  for (const WeightFormat weights : {WeightFormat::f32, WeightFormat::bf16, WeightFormat::int8, WeightFormat::int4}) {
    CAPTURE(static_cast<int>(weights));
    const TemporaryDirectory directory;
    const auto model = loaded(directory, spec, mixture_of(dense, upcycling, 0.1), weights);
    const auto vocab_size = static_cast<size_t>(model->vocab_size());
    // The logits after each of a sequence's tokens, read beside `others` more.
    const auto read = [&](size_t others) {
      std::vector<int64_t> handles;
      for (size_t s = 0; s <= others; ++s) handles.push_back(model->open_sequence());
      std::vector<float> all;
      for (size_t step = 0; step < 12; ++step) {
        Sequences batch;
        for (size_t s = 0; s <= others; ++s) {
          const std::vector<int32_t> ids = drawn_ids(40, s);
          const size_t begin = step == 0 ? 0 : 8 + step, count = step == 0 ? 9 : 1;
          batch.add(std::span(ids).subspan(begin, count));
        }
        std::vector<float> logits((others + 1) * vocab_size);
        model->extend(handles, batch.packed(), logits, step == 0 ? RowSums::prompt : RowSums::decode);
        all.insert(all.end(), logits.begin(), logits.begin() + static_cast<int64_t>(vocab_size));
      }
      for (const int64_t handle : handles) model->close_sequence(handle);
      return all;
    };
    const std::vector<float> alone = read(0);
    CHECK(read(3) == alone);
    CHECK(read(17) == alone);
  }
}

/// Cross-entropy and balance losses as a training adds them up, without a step being taken.
struct MoeLoss {
  double value = 0;
  std::vector<std::vector<int64_t>> kept;  ///< what was kept, which must not change between two points
  int64_t dropped = 0;
};

TEST_CASE("gradients of mixtures equal finite differences, dropout and dropped tokens included") {
  for (const bool pre_norm : {true, false}) {
    CAPTURE(pre_norm);
    const ModelSpec dense = dense_shape(pre_norm);
    const Upcycling upcycling{
        .experts = 3, .layers = {0, 2}, .router_init = RouterInit::normal, .balance_weight = 0.5, .seed = 1};
    ModelSpec wide = dense;
    wide.initial_deviation = 0.2;
    const ModelSpec spec = upcycled_spec(wide, upcycling);
    const std::vector<float> flat = mixture_of(wide, upcycling, 0.1);
    const std::vector<int32_t> ids = drawn_ids(24, 6), targets = drawn_ids(24, 7), offsets = {0, 9, 24};
    constexpr float kScale = 1 / 24.0f;
    const BackwardOptions options{
        .gradient_scale = kScale, .dropout = 0.2f, .seed = 77, .step = 3, .first_row = 5, .dropout_columns = 48};
    TrainingModel model(test_device(), spec, flat, 24, Keep::everything);
    const auto loss = [&]() -> MoeLoss {
      MoeLoss result;
      result.value = static_cast<double>(kScale) * model.accumulate_gradients({ids, offsets}, targets, options);
      const StepResult done = model.finish_step({.learning_rate = 0});
      for (const LayerRouting& layer : layer_routing(spec, done.routing_statistics)) {
        result.value += 0.5 * layer.balance_loss;
        result.kept.push_back(layer.first_choices);
        result.kept.push_back(layer.kept);
        result.dropped += layer.dropped_first + layer.dropped_second;
      }
      return result;
    };
    model.accumulate_gradients({ids, offsets}, targets, options);
    const float* first_gradient = model.gradients().as<float>();
    const std::vector<float> gradient(first_gradient, first_gradient + model.layout().flat_size());
    model.finish_step({.learning_rate = 0});
    const MoeLoss here = loss();
    CHECK(here.dropped > 0);
    int64_t checked = 0, experts_checked = 0;
    for (const Parameter& parameter : model.layout().parameters()) {
      // Along the gradient itself: the steepest check of a whole tensor at once.
      double square = 0;
      for (int64_t i = 0; i < parameter.size(); ++i)
        square += std::pow(static_cast<double>(gradient[static_cast<size_t>(parameter.offset + i)]), 2);
      if (square < 1e-8) continue;
      const double step = 5e-4 / std::sqrt(square);
      float* weights = model.weights().as<float>();
      const auto at = [&](double factor) {
        for (int64_t i = 0; i < parameter.size(); ++i) {
          const auto place = static_cast<size_t>(parameter.offset + i);
          weights[place] = flat[place] + static_cast<float>(factor * static_cast<double>(gradient[place]));
        }
        const MoeLoss result = loss();
        for (int64_t i = 0; i < parameter.size(); ++i)
          weights[parameter.offset + i] = flat[static_cast<size_t>(parameter.offset + i)];
        return result;
      };
      const MoeLoss above = at(step), below = at(-step);
      if (above.kept != here.kept || below.kept != here.kept) continue;  // a choice flips: the loss jumps there
      CAPTURE(static_cast<int>(parameter.role));
      CAPTURE(parameter.layer);
      CAPTURE(parameter.expert);
      CHECK((above.value - below.value) / (2 * step) == doctest::Approx(square).epsilon(0.02));
      ++checked;
      experts_checked += parameter.expert >= 0 || parameter.role == ParameterRole::router ? 1 : 0;
    }
    CHECK(checked >= 30);
    CHECK(experts_checked >= 16);
  }
}

}  // namespace
}  // namespace cbtm
