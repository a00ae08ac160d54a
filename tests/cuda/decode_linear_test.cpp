// Linear layers of few rows: the CUDA device against products in float64.

#include "decode_linear.h"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "cbtm/device/device_matrix.h"
#include "cbtm/device/model_operators.h"
#include "cbtm/device/quantise.h"
#include "cuda_device.h"
#include "tests/cuda/half_precision.h"
#include "tests/cuda/rounded.h"
#include "tests/device/operands.h"

namespace cbtm {
namespace {

Device& cuda() {
  static const std::unique_ptr<Device> device = make_cuda_device(0);
  return *device;
}

struct Shape {
  int64_t rows, in, out;
  DType input, weight, output;
  bool bias, relu;
};

void check(Shape shape) {
  for (DType* dtype : {&shape.input, &shape.output}) *dtype = computed_type(*dtype);
  if (shape.input != DType::f32) shape.weight = computed_type(shape.weight);
  CAPTURE(shape.rows);
  CAPTURE(shape.in);
  CAPTURE(shape.out);
  CAPTURE(std::string(dtype_name(shape.weight)));
  std::vector<float> input = random_values(shape.rows * shape.in, 1), bias = random_values(shape.out, 3);
  std::vector<float> weights = random_values(shape.out * shape.in, 2), scales(static_cast<size_t>(shape.out), 1.0f);
  input[0] = 60;  // an outlier
  const DeviceMatrix x = upload_rounded(cuda(), input, shape.rows, shape.input);
  const DeviceMatrix b = upload_rounded(cuda(), bias, 1, DType::f32);
  DeviceMatrix w, s;
  if (shape.weight == DType::i8) {
    std::vector<int8_t> quantised(weights.size());
    for (size_t i = 0; i < weights.size(); ++i) {
      quantised[i] = static_cast<int8_t>(std::lround(weights[i] * 127));
      weights[i] = quantised[i];
    }
    for (size_t o = 0; o < scales.size(); ++o) scales[o] = (1 + static_cast<float>(o % 5)) / 127;
    w = DeviceMatrix::copy_of<int8_t>(cuda(), quantised, shape.out, "test");
    s = DeviceMatrix::copy_of<float>(cuda(), scales, 1, "test");
  } else if (shape.weight == DType::u8) {
    const int64_t groups = int4_groups(shape.in);
    std::vector<uint8_t> codes(static_cast<size_t>(shape.out * groups * kInt4GroupBytes));
    std::vector<f16> group_scales(static_cast<size_t>(shape.out * groups));
    for (int64_t o = 0; o < shape.out; ++o) {
      float* row = weights.data() + o * shape.in;
      uint8_t* row_codes = codes.data() + o * groups * kInt4GroupBytes;
      REQUIRE(quantise_int4(row, shape.in, row_codes, group_scales.data() + o * groups));
      dequantise_int4(row_codes, group_scales.data() + o * groups, shape.in, row);
    }
    w = DeviceMatrix::copy_of<uint8_t>(cuda(), codes, shape.out, "test");
    s = DeviceMatrix::copy_of<f16>(cuda(), group_scales, shape.out, "test");
  } else {
    w = upload_rounded(cuda(), weights, shape.out, shape.weight);
  }
  const DeviceMatrix y(cuda(), shape.output, shape.rows, shape.out, "test");
  const LinearForward layer{.input = x.view(),
                            .weight = w.view(),
                            .bias = shape.bias ? b.view() : TensorView(),
                            .activation = shape.relu ? Activation::relu : Activation::none,
                            .output = y.view(),
                            .weight_scales = s.view()};
  const bool quantised = shape.weight == DType::i8 || shape.weight == DType::u8;
  const int64_t rows_max = quantised && shape.input != DType::f32 ? 32 : 8;
  CHECK(cuda::decode_linear_applies(layer, cuda_device_info(0).compute_capability) == (shape.rows <= rows_max));
  cuda().model_operators().linear_forward(layer);
  const std::vector<float> got = download(y);
  int64_t wrong = 0;
  for (int64_t r = 0; r < shape.rows; ++r)
    for (int64_t o = 0; o < shape.out; ++o) {
      double sum = 0, size = 0;
      for (int64_t i = 0; i < shape.in; ++i) {
        const double product = static_cast<double>(input[static_cast<size_t>(r * shape.in + i)]) *
                               static_cast<double>(weights[static_cast<size_t>(o * shape.in + i)]);
        sum += product;
        size += std::abs(product);
      }
      const double scale = static_cast<double>(scales[static_cast<size_t>(o)]);
      double want = sum * scale + (shape.bias ? static_cast<double>(bias[static_cast<size_t>(o)]) : 0);
      if (shape.relu) want = std::max(want, 0.0);
      // A lane sums in / 32 products (int4: those of a group, then the groups), 5 steps join the lanes, then scale and
      // bias; then the output is rounded. On tensor cores a warp of 8 adds 16 products at a time, in / 128 times, by
      // sums that may cut instead of round, by 2^-22 of what is summed so far. More rows of quantised weights than the
      // kernels take are multiplied as the input's type.
      double bound =
          (static_cast<double>(shape.in) / 32 + (shape.weight == DType::u8 ? 41 : 8)) * 0x1p-24 * (size * scale + 1);
      if (shape.rows > rows_max)
        bound += static_cast<double>(shape.in) * 0x1p-24 * size * scale + unit_roundoff(shape.input) * size * scale;
      bound += unit_roundoff(shape.output) * std::abs(want);
      if (!(std::abs(static_cast<double>(got[static_cast<size_t>(r * shape.out + o)]) - want) <= bound)) ++wrong;
    }
  CHECK(wrong == 0);
}

TEST_CASE("1 to 8 rows, any width and alignment, bias and ReLU") {
  check({1, 1, 1, DType::f32, DType::f32, DType::f32, true, false});
  check({1, 1024, 16, DType::f32, DType::f32, DType::f32, true, true});
  check({2, 31, 9, DType::f32, DType::bf16, DType::f32, false, false});
  check({3, 1025, 17, DType::f32, DType::bf16, DType::f32, true, true});
  check({8, 768, 40, DType::bf16, DType::bf16, DType::bf16, true, true});
  check({5, 2100, 8, DType::bf16, DType::bf16, DType::f32, true, false});
  check({4, 512, 33, DType::f16, DType::f16, DType::f16, false, true});
  check({1, 100, 70, DType::f32, DType::f16, DType::f32, true, false});
}

TEST_CASE("more rows of weights a warp or block, where there are many") {
  check({1, 64, 4301, DType::bf16, DType::bf16, DType::f32, false, false});
  check({3, 40, 2200, DType::f16, DType::f16, DType::f16, true, true});
  check({7, 40, 4300, DType::f32, DType::f32, DType::f32, true, false});
  check({8, 97, 4250, DType::bf16, DType::i8, DType::bf16, true, false});
  check({2, 70, 2300, DType::f16, DType::i8, DType::f32, false, true});
}

TEST_CASE("int8 weights with a scale a row, few rows and many") {
  check({1, 1024, 20, DType::f32, DType::i8, DType::f32, true, true});
  check({3, 777, 11, DType::bf16, DType::i8, DType::bf16, true, false});
  check({8, 2064, 5, DType::f16, DType::i8, DType::f32, false, false});
  check({12, 96, 24, DType::f32, DType::i8, DType::f32, true, false});
  check({12, 200, 24, DType::bf16, DType::i8, DType::bf16, false, false});
  check({17, 136, 40, DType::f16, DType::i8, DType::f16, true, true});
  check({9, 64, 2100, DType::bf16, DType::i8, DType::f32, false, false});
  check({32, 40, 2111, DType::f16, DType::i8, DType::f32, true, false});
  check({33, 96, 24, DType::bf16, DType::i8, DType::bf16, true, false});
}

TEST_CASE("int4 weights with a scale a group, few rows and many, groups that are not full") {
  check({1, 1024, 20, DType::bf16, DType::u8, DType::bf16, true, true});
  check({1, 1, 1, DType::f32, DType::u8, DType::f32, true, false});
  check({1, 1, 1, DType::bf16, DType::u8, DType::bf16, true, false});
  check({2, 1057, 9, DType::f32, DType::u8, DType::f32, true, true});
  check({3, 777, 11, DType::bf16, DType::u8, DType::bf16, true, false});
  check({4, 31, 70, DType::f16, DType::u8, DType::f16, false, true});
  check({8, 2080, 5, DType::bf16, DType::u8, DType::f32, false, false});
  check({2, 4400, 19, DType::f16, DType::u8, DType::f32, true, false});  // scales come twice
  check({1, 64, 4301, DType::bf16, DType::u8, DType::f32, false, false});
  check({6, 130, 2105, DType::f16, DType::u8, DType::f16, true, true});
  check({12, 100, 24, DType::f32, DType::u8, DType::f32, true, false});
  check({9, 96, 24, DType::bf16, DType::u8, DType::bf16, true, true});
  check({16, 40, 2101, DType::bf16, DType::u8, DType::f32, true, false});
  check({25, 200, 17, DType::f16, DType::u8, DType::f16, true, false});
  check({30, 32, 2200, DType::bf16, DType::u8, DType::bf16, false, true});
  check({40, 96, 24, DType::bf16, DType::u8, DType::bf16, true, true});
}

/// Outputs that give every multiprocessor a block of 128 of them and 128 of 129 to 256 rows.
int64_t many_outputs() { return int64_t{64} * cuda_device_info(0).multiprocessors; }

TEST_CASE("quantised weights of many rows and outputs: the large tiles") {
  for (const DType weight : {DType::i8, DType::u8}) {
    check({130, 128, many_outputs() + 2, DType::bf16, weight, DType::bf16, true, true});
    check({140, 256, many_outputs() + 1, DType::f16, weight, DType::f32, true, false});
  }
}

TEST_CASE("a row's result does not depend on the rows beside it") {
  // Up to 32 rows have one kernel, up to 256 another one, with tiles that depend on their number.
  const int64_t in = 176, out = many_outputs() + 32, rows = 256;
  const std::vector<float> input = random_values(rows * in, 1), weights = random_values(out * in, 2);
  for (const bool quantised : {false, true}) {
    CAPTURE(quantised);
    std::vector<int8_t> codes(weights.size());
    for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<int8_t>(std::lround(weights[i] * 127));
    const std::vector<float> scales(static_cast<size_t>(out), 1.0f / 127);
    const DeviceMatrix s = DeviceMatrix::copy_of<float>(cuda(), scales, 1, "test");
    std::vector<float> rounded = weights;
    const DeviceMatrix w = quantised ? DeviceMatrix::copy_of<int8_t>(cuda(), codes, out, "test")
                                     : upload_rounded(cuda(), rounded, out, half_type());
    std::vector<float> alone;
    for (const int64_t count : {int64_t{1}, int64_t{8}, int64_t{13}, int64_t{32}, int64_t{33}, int64_t{70}, rows}) {
      if (!quantised && count > 8) continue;
      if (count == 33) alone.clear();
      CAPTURE(count);
      std::vector<float> first(input.begin(), input.begin() + count * in);
      const DeviceMatrix x = upload_rounded(cuda(), first, count, half_type());
      const DeviceMatrix y(cuda(), DType::f32, count, out, "test");
      cuda().model_operators().linear_forward({.input = x.view(),
                                               .weight = w.view(),
                                               .bias = {},
                                               .activation = Activation::none,
                                               .output = y.view(),
                                               .weight_scales = quantised ? s.view() : TensorView()});
      std::vector<float> got = download(y);
      got.resize(static_cast<size_t>(out));
      if (alone.empty()) alone = got;
      CHECK(got == alone);
    }
  }
}

}  // namespace
}  // namespace cbtm
