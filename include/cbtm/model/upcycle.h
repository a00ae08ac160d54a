#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cbtm/base/json.h"
#include "cbtm/model/spec.h"

namespace cbtm {

/// What the router of a fresh mixture holds (docs/method.md, 'Mixture of experts').
enum class RouterInit : uint8_t {
  uniform,  ///< in [0, 1), rounded to float16, as in the published program: gates are sharp from the start
  normal,   ///< N(0, ModelSpec::initial_deviation²): gates start soft
};

/// How a dense model becomes a mixture of experts.
struct Upcycling {
  int64_t experts = 8;
  std::vector<int64_t> layers;  ///< ascending
  RouterInit router_init = RouterInit::uniform;
  double balance_weight = 0.01;  ///< FeedForwardSpec::balance_weight
  uint64_t seed = 0;             ///< of the routers
};

/// Everything of it that changes the model, for records.
Json upcycling_json(const Upcycling& upcycling);

/// Layers 1, 3, 5, ...: those that the published program makes mixtures of. Throws Error if there are none.
std::vector<int64_t> odd_layers(const ModelSpec& dense);

/// The dense model with mixtures in `layers` (sparse upcycling, arXiv 2212.05055). Throws Error if its family has no
/// models with mixtures, if it is a mixture already, or if a layer or the number of experts is out of range.
ModelSpec upcycled_spec(const ModelSpec& dense, const Upcycling& upcycling);

/// Fills `flat`, in the order of ParameterLayout(upcycled_spec) and zero so far, from the parameters of the dense
/// model: each expert is a copy of the layer's feed-forward, routers are drawn, everything else is copied. So where no
/// token is dropped the mixture computes what the dense model computes.
void upcycle_parameters(const ModelSpec& dense, const Upcycling& upcycling, std::span<const float> parameters,
                        std::span<float> flat);

}  // namespace cbtm
