// What the cases of tests/operators do not show of a mixture's experts on the CUDA device: tiles of every kernel, bits
// that do not depend on other rows, the mask of a ReLU, and a whole layer recorded and run again.

#include <algorithm>
#include <cmath>
#include <numeric>

#include "cbtm/base/ceil_divide.h"
#include "cbtm/device/device_matrix.h"
#include "cbtm/device/model_operators.h"
#include "tests/cuda/attention_operands.h"
#include "tests/cuda/half_precision.h"

namespace cbtm {
namespace {

DeviceMatrix numbers(const std::vector<int32_t>& values) {
  return DeviceMatrix::copy_of<int32_t>(cuda_device(), values, 1, "test");
}
std::vector<int32_t> offsets_of(const std::vector<int32_t>& rows) {
  std::vector<int32_t> offsets(rows.size() + 1, 0);
  std::partial_sum(rows.begin(), rows.end(), offsets.begin() + 1);
  return offsets;
}

/// Uniform numbers in [-1, 1) as `dtype`.
DeviceMatrix random_matrix(DType dtype, int64_t rows, int64_t columns, uint64_t seed) {
  DeviceMatrix matrix(cuda_device(), dtype, rows, columns, "test");
  PhiloxStream stream(seed, 1);
  std::vector<float> values(static_cast<size_t>(rows * columns));
  for (float& value : values) value = static_cast<float>(2 * stream.next_uniform() - 1);
  const std::vector<char> bytes = encoded(values, dtype);
  cuda_device().copy_to_device(matrix.view().data, bytes.data(), static_cast<int64_t>(bytes.size()));
  return matrix;
}
DeviceMatrix random_bytes(DType dtype, int64_t rows, int64_t columns, uint64_t seed) {
  DeviceMatrix matrix(cuda_device(), dtype, rows, columns, "test");
  PhiloxStream stream(seed, 2);
  std::vector<uint8_t> bytes(static_cast<size_t>(rows * columns));
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(stream.next_below(256));
  cuda_device().copy_to_device(matrix.view().data, bytes.data(), static_cast<int64_t>(bytes.size()));
  return matrix;
}

/// The bytes of rows first .. first + count - 1.
std::vector<char> bytes_of(TensorView view, int64_t first, int64_t count) {
  const int64_t row_bytes = view.columns * dtype_bytes(view.dtype);
  std::vector<char> bytes(static_cast<size_t>(view.rows * row_bytes));
  cuda_device().copy_to_host(bytes.data(), view.data, static_cast<int64_t>(bytes.size()));
  return {bytes.begin() + first * row_bytes, bytes.begin() + (first + count) * row_bytes};
}

/// The weights of some experts in any type.
struct ExpertWeights {
  DeviceMatrix matrix, scales, bias;

  ExpertWeights(DType dtype, DType activations, int64_t outputs, int64_t in)
      : bias(random_matrix(activations, 1, outputs, 3)) {
    if (dtype == DType::i8) {
      matrix = random_bytes(dtype, outputs, in, 1);
      scales = random_matrix(DType::f32, 1, outputs, 2);
    } else if (dtype == DType::u8) {
      matrix = random_bytes(dtype, outputs, int4_groups(in) * kInt4GroupBytes, 1);
      scales = random_matrix(DType::f16, outputs, int4_groups(in), 2);
    } else {
      matrix = random_matrix(dtype, outputs, in, 1);
    }
  }
  TensorView scales_view() const {
    return matrix.view().dtype == DType::i8 || matrix.view().dtype == DType::u8 ? scales.view() : TensorView();
  }
};

}  // namespace

TEST_CASE("a row of an expert has the same bits however many rows its expert has") {
  constexpr int64_t kExperts = 4, kOut = 40;
  const std::vector<int32_t> offsets = offsets_of({3, 0, 150, 47});  // more of one expert than any tile has
  const int64_t used = offsets.back();
  const int64_t rows = kExperts * 128;  // so many that the large tiles are taken; those behind `used` are not
  struct Types {
    DType input, weight;
    int64_t in;
  };
  // Widths of whole accesses and others, which take other kernels.
  const DType half = half_type();
  for (const Types& types : {Types{half, half, 72}, Types{half, half, 45}, Types{half, DType::i8, 80},
                             Types{half, DType::i8, 45}, Types{half, DType::u8, 256}, Types{half, DType::u8, 72},
                             Types{DType::f32, DType::f32, 33}, Types{DType::f32, DType::u8, 45}})
    for (const RowSums row_sums : {RowSums::decode, RowSums::prompt})
      for (const Activation activation : {Activation::relu, Activation::gelu}) {
        CAPTURE(dtype_name(types.input));
        CAPTURE(dtype_name(types.weight));
        CAPTURE(types.in);
        CAPTURE(static_cast<int>(row_sums));
        const ExpertWeights weights(types.weight, types.input, kExperts * kOut, types.in);
        const DeviceMatrix input = random_matrix(types.input, rows, types.in, 4);
        const auto run = [&](TensorView some, const std::vector<int32_t>& some_offsets, TensorView output) {
          const DeviceMatrix on_device = numbers(some_offsets);
          cuda_device().model_operators().expert_linear_forward({.input = some,
                                                                 .offsets = on_device.view(),
                                                                 .weight = weights.matrix.view(),
                                                                 .bias = weights.bias.view(),
                                                                 .activation = activation,
                                                                 .output = output,
                                                                 .weight_scales = weights.scales_view(),
                                                                 .row_sums = row_sums});
          cuda_device().synchronize();
        };
        const DeviceMatrix all(cuda_device(), types.input, rows, kOut, "test");
        run(input.view(), offsets, all.view());
        const DeviceMatrix alone(cuda_device(), types.input, 2, kOut, "test");
        for (const int64_t row : {int64_t{0}, int64_t{2}, int64_t{3}, int64_t{40}, int64_t{152}, used - 1}) {
          CAPTURE(row);
          std::vector<int32_t> one(kExperts + 1, 0);
          for (size_t e = 1; e < one.size(); ++e) one[e] = offsets[e] > row ? 1 : 0;
          run(input.view().row_range(row, 2 <= rows - row ? 2 : 1), one,
              alone.view().row_range(0, 2 <= rows - row ? 2 : 1));
          CHECK(bytes_of(alone.view(), 0, 1) == bytes_of(all.view(), row, 1));
        }
      }
}

TEST_CASE("the mask of a ReLU stands for what the ReLU was taken of") {
  const std::vector<int32_t> offsets = offsets_of({0, 70, 3});
  const int64_t rows = offsets.back() + 5, in = 40, middle = 152, out = 24, experts = 3;
  for (const DType dtype : {DType::f32, half_type()}) {
    CAPTURE(dtype_name(dtype));
    ModelOperators& operators = cuda_device().model_operators();
    const DeviceMatrix on_device = numbers(offsets), input = random_matrix(dtype, rows, in, 1);
    const DeviceMatrix first = random_matrix(dtype, experts * middle, in, 2);
    const DeviceMatrix second = random_matrix(dtype, experts * out, middle, 3);
    const DeviceMatrix active(cuda_device(), dtype, rows, middle, "test");
    const DeviceMatrix gradient = random_matrix(dtype, rows, out, 4);
    const DeviceMatrix mask(cuda_device(), DType::u8, rows,
                            operators.saved_activation_columns(Activation::relu, dtype, middle), "test");
    operators.expert_linear_forward({.input = input.view(),
                                     .offsets = on_device.view(),
                                     .weight = first.view(),
                                     .bias = {},
                                     .activation = Activation::relu,
                                     .output = active.view(),
                                     .saved = mask.view()});
    std::vector<std::vector<char>> gradients;
    for (const bool masked : {false, true}) {
      const DeviceMatrix input_gradient(cuda_device(), dtype, rows, middle, "test");
      operators.expert_linear_backward({.input = active.view(),
                                        .offsets = on_device.view(),
                                        .weight = second.view(),
                                        .output_gradient = gradient.view(),
                                        .input_gradient = input_gradient.view(),
                                        .input_activation = Activation::relu,
                                        .input_saved = masked ? mask.view() : TensorView(),
                                        .weight_gradient = {},
                                        .bias_gradient = {}});
      gradients.push_back(bytes_of(input_gradient.view(), 0, offsets.back()));
    }
    CHECK(gradients[0] == gradients[1]);
    CHECK(std::ranges::count(gradients[0], 0) > offsets.back() * middle / 4);
  }
}

TEST_CASE("tiles of many rows and columns: forward and backward equal the CPU's") {
  const std::vector<int32_t> offsets = offsets_of({130, 0, 300, 1});
  const int64_t rows = offsets.back() + 3, in = 264, out = 200, experts = 4;
  const DeviceMatrix on_device = numbers(offsets);
  const ConstTensorView on_host = view_of(offsets.data(), 1, static_cast<int64_t>(offsets.size()));
  // Sums of `terms` products of numbers below 1, in float32 in whatever order, rounded to `dtype`.
  const auto worst = [](const std::vector<float>& got, const std::vector<float>& want, int64_t count, DType dtype,
                        int64_t terms) {
    double largest = 0;
    for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
      const double bound = 2 * static_cast<double>(terms + 4) * 0x1p-24 * static_cast<double>(terms + 1) +
                           unit_roundoff(dtype) * std::abs(static_cast<double>(want[i])) + 0x1p-24;
      const double error = std::abs(static_cast<double>(got[i]) - static_cast<double>(want[i])) / bound;
      largest = std::isnan(error) ? INFINITY : std::max(largest, error);
    }
    return largest;
  };
  for (const DType dtype : {DType::f32, half_type()}) {
    CAPTURE(dtype_name(dtype));
    Matrix input(dtype, rows, in, in, 0), weight(dtype, experts * out, in, in, 0);
    Matrix bias(dtype, 1, experts * out, experts * out, 0), output(dtype, rows, out, out, 0);
    Matrix gradient(dtype, rows, out, out, 0), input_gradient(dtype, rows, in, in, 0);
    Matrix weight_gradient(DType::f32, experts * out, in, in, 0);
    Matrix bias_gradient(DType::f32, 1, experts * out, experts * out, 0);
    input.randomize(1), weight.randomize(2), bias.randomize(3), output.randomize(4), gradient.randomize(5);
    input_gradient.randomize(6), weight_gradient.randomize(7), bias_gradient.randomize(8);
    const auto run = [&](Device& device, bool cuda) {
      const auto on = [&](Matrix& matrix) { return cuda ? matrix.cuda() : matrix.cpu(); };
      const ConstTensorView places = cuda ? ConstTensorView(on_device.view()) : on_host;
      ModelOperators& operators = device.model_operators();
      operators.expert_linear_forward({.input = on(input),
                                       .offsets = places,
                                       .weight = on(weight),
                                       .bias = on(bias),
                                       .activation = Activation::none,
                                       .output = on(output),
                                       .row_sums = RowSums::prompt});
      operators.expert_linear_backward({.input = on(input),
                                        .offsets = places,
                                        .weight = on(weight),
                                        .output_gradient = on(gradient),
                                        .input_gradient = on(input_gradient),
                                        .weight_gradient = on(weight_gradient),
                                        .bias_gradient = on(bias_gradient)});
      operators.finish_backward();
    };
    run(cuda_device(), true);
    const std::vector<float> got_output = output.from_cuda(), got_input = input_gradient.from_cuda();
    const std::vector<float> got_weight = weight_gradient.from_cuda(), got_bias = bias_gradient.from_cuda();
    run(cpu_device(), false);
    CHECK(worst(got_output, output.from_cpu(), offsets.back() * out, dtype, in) <= 1);
    CHECK(worst(got_input, input_gradient.from_cpu(), offsets.back() * in, dtype, out) <= 1);
    CHECK(worst(got_weight, weight_gradient.from_cpu(), experts * out * in, DType::f32, 300) <= 1);
    CHECK(worst(got_bias, bias_gradient.from_cpu(), experts * out, DType::f32, 300) <= 1);
  }
}

TEST_CASE("quantised weights of experts with many rows: the large tiles") {
  const std::vector<int32_t> offsets = offsets_of({300, 5});
  const int64_t rows = offsets.back(), out = 140, experts = 2;
  for (const DType weight : {DType::i8, DType::u8}) {
    CAPTURE(dtype_name(weight));
    const int64_t in = weight == DType::i8 ? 144 : 256;
    const ExpertWeights weights(weight, half_type(), experts * out, in);
    const DeviceMatrix input = random_matrix(half_type(), rows, in, 5), on_device = numbers(offsets);
    std::vector<std::vector<float>> results;
    for (const RowSums row_sums : {RowSums::prompt, RowSums::decode}) {
      const DeviceMatrix output(cuda_device(), half_type(), rows, out, "test");
      cuda_device().model_operators().expert_linear_forward({.input = input.view(),
                                                             .offsets = on_device.view(),
                                                             .weight = weights.matrix.view(),
                                                             .bias = weights.bias.view(),
                                                             .activation = Activation::none,
                                                             .output = output.view(),
                                                             .weight_scales = weights.scales.view(),
                                                             .row_sums = row_sums});
      results.push_back(decoded(bytes_of(output.view(), 0, rows), half_type()));
    }
    // Both add float32 products of 16-bit numbers below 1 and integers of at most 128, or 8, with a scale below 1, in
    // other orders.
    const double magnitude = static_cast<double>(in) * (weight == DType::i8 ? 128 : 8);
    double largest = 0;
    for (size_t i = 0; i < results[0].size(); ++i) {
      const double want = static_cast<double>(results[1][i]);
      const double error =
          std::abs(static_cast<double>(results[0][i]) - want) /
          (4 * static_cast<double>(in) * 0x1p-24 * magnitude + 2 * unit_roundoff(half_type()) * std::abs(want));
      largest = std::isnan(error) ? INFINITY : std::max(largest, error);
    }
    CHECK(largest <= 1);
  }
}

TEST_CASE("a layer of experts is recorded and run again for other tokens") {
  if (!cuda_device().records()) return;
  constexpr int64_t kRows = 150, kWidth = 40, kInner = 72, kExperts = 5;
  const DType dtype = half_type();
  ModelOperators& operators = cuda_device().model_operators();
  const DeviceMatrix router = random_matrix(dtype, kExperts, kWidth, 1);
  const DeviceMatrix first = random_matrix(dtype, kExperts * kInner, kWidth, 2);
  const DeviceMatrix second = random_matrix(dtype, kExperts * kWidth, kInner, 3);
  const DeviceMatrix input(cuda_device(), dtype, kRows, kWidth, "test");
  const auto make = [&](DType type, int64_t rows, int64_t columns) {
    return DeviceMatrix(cuda_device(), type, rows, columns, "test");
  };
  const DeviceMatrix logits = make(DType::f32, kRows, kExperts), choices = make(DType::i32, kRows, 2);
  const DeviceMatrix weights = make(DType::f32, kRows, 2), sorted_row = make(DType::i32, kRows, 2);
  const DeviceMatrix offsets = make(DType::i32, 1, kExperts + 1), sources = make(DType::i32, 1, 2 * kRows);
  const DeviceMatrix counts = make(DType::i32, 1, kExperts);
  const DeviceMatrix statistics = make(DType::f64, 1, RoutingStatistics::columns(kExperts));
  cuda_device().fill_zero(statistics.view());
  const DeviceMatrix sorted = make(dtype, 2 * kRows, kWidth), inner = make(dtype, 2 * kRows, kInner);
  const DeviceMatrix out = make(dtype, kRows, kWidth);
  const ExpertRouting routing{logits.view(),  choices.view(), weights.view(), sorted_row.view(),
                              offsets.view(), sources.view(), counts.view()};
  const auto calls = [&] {
    operators.route_tokens({.input = input.view(),
                            .router = router.view(),
                            .capacity = 40,
                            .routing = routing,
                            .statistics = statistics.view()});
    operators.gather_expert_rows({.source = input.view(), .routing = routing, .sorted = sorted.view()});
    operators.expert_linear_forward({.input = sorted.view(),
                                     .offsets = offsets.view(),
                                     .weight = first.view(),
                                     .bias = {},
                                     .activation = Activation::relu,
                                     .output = inner.view()});
    operators.expert_linear_forward({.input = inner.view(),
                                     .offsets = offsets.view(),
                                     .weight = second.view(),
                                     .bias = {},
                                     .output = sorted.view()});
    operators.combine_expert_rows({.sorted = sorted.view(), .routing = routing, .dropout = {}, .out = out.view()});
  };
  std::unique_ptr<RecordedOperators> record;
  for (uint64_t tokens = 10; tokens < 13; ++tokens) {
    const DeviceMatrix other = random_matrix(dtype, kRows, kWidth, tokens);
    cuda_device().copy(input.view(), other.view());
    calls();
    const std::vector<char> want = bytes_of(out.view(), 0, kRows), want_offsets = bytes_of(offsets.view(), 0, 1);
    cuda_device().fill_zero(out.view());
    cuda_device().fill_zero(offsets.view());
    if (record == nullptr) record = cuda_device().record(calls);
    REQUIRE(record != nullptr);
    record->run();
    CHECK(bytes_of(out.view(), 0, kRows) == want);
    CHECK(bytes_of(offsets.view(), 0, 1) == want_offsets);
  }
}

}  // namespace cbtm
