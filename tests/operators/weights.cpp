#include "tests/operators/weights.h"

#include <algorithm>
#include <cmath>

#include "cbtm/base/error.h"
#include "cbtm/device/linear_operands.h"
#include "cbtm/device/quantise.h"

namespace cbtm {

WeightOperands add_weights(OperatorCase& one, DType dtype, int64_t out, int64_t in, uint64_t seed, double scale,
                           Placement placement) {
  WeightOperands weights;
  const std::vector<double> drawn = uniform_values(out * in, seed, scale);
  if (dtype != DType::i8 && dtype != DType::u8) {
    weights.matrix = one.input("weight", dtype, out, in, drawn, placement);
    weights.meant = one.matrix(weights.matrix).values;
    return weights;
  }
  const bool int8 = dtype == DType::i8;
  const int64_t groups = int4_groups(in), row_bytes = int8 ? in : groups * kInt4GroupBytes;
  std::vector<double> codes, scales;
  for (int64_t o = 0; o < out; ++o) {
    const std::vector<float> row(drawn.begin() + o * in, drawn.begin() + (o + 1) * in);
    bool good = false;
    if (int8) {
      std::vector<int8_t> row_codes(static_cast<size_t>(row_bytes));
      float row_scale = 0;
      good = quantise_int8(row.data(), in, row_codes.data(), row_scale);
      codes.insert(codes.end(), row_codes.begin(), row_codes.end());
      scales.push_back(static_cast<double>(row_scale));
      for (const int8_t code : row_codes) weights.meant.push_back(static_cast<double>(row_scale) * code);
    } else {
      std::vector<uint8_t> row_codes(static_cast<size_t>(row_bytes));
      std::vector<f16> row_scales(static_cast<size_t>(groups));
      std::vector<float> meant(row.size());
      good = quantise_int4(row.data(), in, row_codes.data(), row_scales.data());
      dequantise_int4(row_codes.data(), row_scales.data(), in, meant.data());
      codes.insert(codes.end(), row_codes.begin(), row_codes.end());
      for (const f16 group_scale : row_scales) scales.push_back(static_cast<double>(to_float(group_scale)));
      weights.meant.insert(weights.meant.end(), meant.begin(), meant.end());
    }
    CBTM_ASSERT(good, "finite weights can be quantised");
  }
  weights.matrix = one.input("weight", dtype, out, row_bytes, codes);
  weights.scales = int8 ? one.input("weight_scales", DType::f32, 1, out, scales)
                        : one.input("weight_scales", DType::f16, out, groups, scales);
  return weights;
}

std::vector<Bounded> multiplied_activations(const HostMatrix& activations, int64_t row, DType weight) {
  constexpr int64_t kChunk = 1024, kGroups = 16;
  std::vector<Bounded> values;
  for (int64_t i = 0; i < activations.columns; ++i) values.emplace_back(activations.at(row, i));
  if (activations.dtype != DType::f32) return values;
  if (weight == DType::bf16)
    for (Bounded& x : values) x = stored(x, DType::bf16);
  if (weight != DType::i8) return values;
  for (int64_t chunk = 0; chunk < activations.columns; chunk += kChunk) {
    double largest[kGroups] = {}, of_chunk = 0;
    const int64_t end = std::min(chunk + kChunk, activations.columns);
    for (int64_t i = chunk; i < end; ++i) {
      double& of_group = largest[i / 4 % kGroups];
      of_group = std::max(of_group, std::abs(activations.at(row, i)));
      of_chunk = std::max(of_chunk, of_group);
    }
    // A step is the chunk's largest / (127 * 128), doubled until the group's largest is within 127 steps: less than
    // 2 / 127 of that. Values are off by half a step, and by a few roundings of it.
    for (int64_t i = chunk; i < end; ++i)
      values[static_cast<size_t>(i)].error =
          std::max(of_chunk / (127 * 256), largest[i / 4 % kGroups] / 127) * (1 + 0x1p-20);
  }
  return values;
}

const char* weight_type_name(DType dtype) { return dtype == DType::u8 ? "int4" : dtype_name(dtype); }

}  // namespace cbtm
