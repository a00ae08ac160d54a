// Tokens drawn from a mixture of experts: the CUDA device draws the CPU's.

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "cbtm/device/device_matrix.h"
#include "cbtm/device/model_operators.h"
#include "cuda_device.h"
#include "tests/cuda/rounded.h"
#include "tests/device/operands.h"

namespace cbtm {
namespace {

Device& cuda() {
  static const std::unique_ptr<Device> device = make_cuda_device(0);
  return *device;
}
Device& cpu() { return device_under_test(); }

/// The same experts' logits on both devices, and weights of which some are 0.
struct Case {
  Case(int64_t sequences, int64_t vocab, size_t experts, float scale, DType dtype = DType::f32) {
    weights.assign(static_cast<size_t>(sequences) * experts, 0);
    for (size_t j = 0; j < experts; ++j) {
      std::vector<float> values = random_values(sequences * vocab, 10 + j, scale);
      values[static_cast<size_t>(vocab) / 2] = scale * 3;
      if (vocab > 3) values[1] = values[3] = -std::numeric_limits<float>::infinity();
      cuda_logits.push_back(upload_rounded(cuda(), values, sequences, dtype));
      cpu_logits.push_back(DeviceMatrix::copy_of<float>(cpu(), values, sequences, "test"));
    }
    for (int64_t s = 0; s < sequences; ++s) {
      float sum = 0;
      for (size_t j = 0; j < experts; ++j) {
        float& weight = weights[static_cast<size_t>(s) * experts + j];
        weight = (static_cast<size_t>(s) + j) % 3 == 1 && experts > 1 ? 0 : 1 + static_cast<float>(j);
        sum += weight;
      }
      for (size_t j = 0; j < experts; ++j) weights[static_cast<size_t>(s) * experts + j] /= sum;
    }
  }
  std::vector<ConstTensorView> views(bool on_cuda) const {
    std::vector<ConstTensorView> result;
    for (const DeviceMatrix& matrix : on_cuda ? cuda_logits : cpu_logits) result.push_back(matrix.view());
    return result;
  }
  std::vector<DeviceMatrix> cpu_logits, cuda_logits;
  std::vector<float> weights;
};

TEST_CASE("scores that are not finite give no token") {
  const float bad[] = {NAN, INFINITY, -INFINITY};
  for (const float value : bad)
    for (const bool greedy : {true, false}) {
      std::vector<float> logits(300, value == -INFINITY ? value : 0.5f);
      logits[170] = value;
      const DeviceMatrix of_expert = DeviceMatrix::copy_of<float>(cuda(), logits, 1, "test");
      const DeviceMatrix weights = DeviceMatrix::copy_of<float>(cuda(), std::vector<float>{1}, 1, "test");
      const DeviceMatrix rows = DeviceMatrix::copy_of<int32_t>(cuda(), std::vector<int32_t>{0}, 1, "test");
      const DeviceMatrix drawn = DeviceMatrix::copy_of<double>(cuda(), std::vector<double>{0.3}, 1, "test");
      const DeviceMatrix tokens(cuda(), DType::i32, 1, 1, "test");
      const ConstTensorView views[] = {of_expert.view()};
      cuda().model_operators().sample_mixture({.logits = views,
                                               .rows = rows.view(),
                                               .weights = weights.view(),
                                               .uniforms = drawn.view(),
                                               .greedy = greedy,
                                               .filter = {.top_k = 5, .top_p = 0.9},
                                               .tokens = tokens.view()});
      CAPTURE(value);
      CHECK(tokens.to_host<int32_t>()[0] == -1);
    }
}

TEST_CASE("sampled tokens are the CPU's: greedy, temperature, top-k, top-p and their ties") {
  struct Setting {
    bool greedy;
    TokenFilter filter;
  };
  const std::vector<Setting> settings = {{true, {}},
                                         {false, {}},
                                         {false, {.temperature = 0.7}},
                                         {false, {.top_k = 1}},
                                         {false, {.top_k = 17}},
                                         {false, {.top_p = 0.3}},
                                         {false, {.top_p = 1e-9}},
                                         {false, {.temperature = 1.5, .top_k = 40, .top_p = 0.8}}};
  // Many ties; few distinct scores, so that thousands are equal; all equal; some far below the others.
  enum class Kind { plain, rounded, coarse, equal, outliers };
  for (const auto& [vocab, kind] : {std::pair{1, Kind::plain},
                                    {37, Kind::plain},
                                    {5000, Kind::plain},
                                    {1030, Kind::rounded},
                                    {9001, Kind::coarse},
                                    {2501, Kind::equal},
                                    {3001, Kind::outliers}}) {
    constexpr int64_t kSequences = 4;
    Case c(kSequences, vocab, 3, 4.0f);
    if (kind != Kind::plain)
      for (size_t j = 0; j < 3; ++j) {
        std::vector<float> values = c.cpu_logits[j].to_host<float>();
        for (size_t i = 0; i < values.size(); ++i) {
          float& value = values[i];
          if (kind == Kind::equal) value = 1.5f;
          if (!std::isfinite(value)) continue;
          if (kind == Kind::rounded) value = std::round(value);
          if (kind == Kind::coarse) value = std::round(value / 4);
          if (kind == Kind::outliers && i % 5 == 0) value -= 1e6f;
        }
        c.cpu_logits[j].write<float>(values);
        c.cuda_logits[j].write<float>(values);
      }
    std::vector<int32_t> rows;
    for (int32_t s = 0; s < kSequences; ++s)
      for (int32_t j = 0; j < 3; ++j) rows.push_back((s + j) % kSequences);
    for (const Setting& setting : settings) {
      CAPTURE(vocab);
      CAPTURE(static_cast<int>(kind));
      CAPTURE(setting.greedy);
      CAPTURE(setting.filter.temperature);
      CAPTURE(setting.filter.top_k);
      CAPTURE(setting.filter.top_p);
      for (uint64_t draw = 0; draw < 4; ++draw) {
        PhiloxStream random(draw, 7);
        std::vector<double> uniforms(kSequences);
        for (double& uniform : uniforms) uniform = random.next_uniform();
        if (draw == 3) uniforms[0] = 0, uniforms[1] = 1 - 0x1p-53;
        std::vector<int32_t> got[2];
        for (int side = 0; side < 2; ++side) {
          Device& device = side == 0 ? cpu() : cuda();
          const DeviceMatrix weights = DeviceMatrix::copy_of<float>(device, c.weights, kSequences, "test");
          const DeviceMatrix row_map = DeviceMatrix::copy_of<int32_t>(device, rows, kSequences, "test");
          const DeviceMatrix drawn = DeviceMatrix::copy_of<double>(device, uniforms, 1, "test");
          const DeviceMatrix tokens(device, DType::i32, 1, kSequences, "test");
          const std::vector<ConstTensorView> logits = c.views(side == 1);
          device.model_operators().sample_mixture({.logits = logits,
                                                   .rows = row_map.view(),
                                                   .weights = weights.view(),
                                                   .uniforms = drawn.view(),
                                                   .greedy = setting.greedy,
                                                   .filter = setting.filter,
                                                   .tokens = tokens.view()});
          got[side] = tokens.to_host<int32_t>();
        }
        CHECK(got[1] == got[0]);
      }
    }
  }
}

}  // namespace
}  // namespace cbtm
