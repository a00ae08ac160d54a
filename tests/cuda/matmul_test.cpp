#include "matmul.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include "activation.h"
#include "device_context.h"
#include "hopper/available.h"
#include "matmul_choices.h"
#include "tests/cuda/product_matrix.h"
#include "tests/cuda/refused_products.h"

namespace cbtm::cuda {
namespace {

/// Whether the kernel for compute capability 9.0 may make products here.
bool may_be_hopper(const Context& context) {
  return hopper::is_available(context) && forced_way() != ForcedWay::library;
}

struct Case {
  int64_t m, n, k;
  bool transpose_a, transpose_b;
  DType in, out;
  float alpha, beta;
  bool bias, relu;
  bool aligned = false;  ///< every row begins at a multiple of 16 bytes

  int64_t stride(int64_t columns, int64_t padding) const {
    return aligned ? round_up(columns, 8) + 8 : columns + padding;
  }
};

/// Against sums in float64. Bound of an element: k + 4 roundings of float32 on the sum of magnitudes, and one rounding
/// to the output's type.
void check_product(DeviceContext& context, const Case& c) {
  CAPTURE(c.m);
  CAPTURE(c.n);
  CAPTURE(c.k);
  CAPTURE(c.transpose_a);
  CAPTURE(c.transpose_b);
  CAPTURE(dtype_name(c.in));
  CAPTURE(dtype_name(c.out));
  const int64_t a_rows = c.transpose_a ? c.k : c.m, a_columns = c.transpose_a ? c.m : c.k;
  const int64_t b_rows = c.transpose_b ? c.n : c.k, b_columns = c.transpose_b ? c.k : c.n;
  const Matrix a(context, c.in, a_rows, a_columns, c.stride(a_columns, 3), 1);
  const Matrix b(context, c.in, b_rows, b_columns, c.stride(b_columns, 8), 2);
  const int64_t out_stride = c.stride(c.n, 5);
  const Matrix out(context, c.out, c.m, c.n, out_stride, 3);
  const Matrix bias(context, c.out, 1, c.n, c.n, 4);
  matmul(context, {.a = a.view(),
                   .b = b.view(),
                   .transpose_a = c.transpose_a,
                   .transpose_b = c.transpose_b,
                   .c = out.view(),
                   .alpha = c.alpha,
                   .beta = c.beta,
                   .bias = c.bias ? bias.view() : TensorView(),
                   .relu = c.relu,
                   .relu_derivative_mask = {},
                   .a_sums = {}});
  const std::vector<float> got = out.read();
  double worst = 0;  // error over bound
  for (int64_t i = 0; i < c.m; ++i)
    for (int64_t j = 0; j < out_stride; ++j) {
      const double before = out.at(i, j);
      const double value = got[static_cast<size_t>(i * out_stride + j)];
      if (j >= c.n) {
        CHECK(value == before);  // between the rows nothing is written
        continue;
      }
      double sum = 0, magnitude = 0;
      for (int64_t l = 0; l < c.k; ++l) {
        const double term = (c.transpose_a ? a.at(l, i) : a.at(i, l)) * (c.transpose_b ? b.at(j, l) : b.at(l, j));
        sum += term;
        magnitude += std::abs(term);
      }
      const double before_bias = c.alpha * sum + c.beta * before;
      double want = before_bias + (c.bias ? bias.at(0, j) : 0);
      magnitude = std::abs(c.alpha) * magnitude + std::abs(c.beta * before) + (c.bias ? std::abs(bias.at(0, j)) : 0);
      if (c.relu) want = std::max(want, 0.0);
      double bound = static_cast<double>(c.k + 4) * unit_roundoff(DType::f32) * magnitude +
                     unit_roundoff(c.out) * std::abs(want) + 1e-30;
      if (c.bias && products_are_refused()) bound += 1.01 * unit_roundoff(c.out) * std::abs(before_bias);
      worst = std::max(worst, std::abs(value - want) / bound);
    }
  CHECK(worst <= 1);
}

}  // namespace

TEST_CASE("products in every type, transposed or not, strided, with bias and ReLU") {
  DeviceContext context(0);
  for (const bool transpose_a : {false, true})
    for (const bool transpose_b : {false, true}) {
      for (const DType in : {DType::f32, DType::bf16, DType::f16}) {
        check_product(context, {33, 40, 17, transpose_a, transpose_b, in, in, 1, 0, true, true});
        check_product(context, {5, 7, 64, transpose_a, transpose_b, in, DType::f32, 0.5f, 1, false, false});
        check_product(context, {1, 1, 1, transpose_a, transpose_b, in, in, 1, 0, true, false});
      }
    }
  check_product(context, {1, 129, 8, false, true, DType::bf16, DType::bf16, 1, 1, false, false});
}

TEST_CASE("products of aligned rows; by the kernel for compute capability 9.0 where it is asked for") {
  DeviceContext context(0);
  for (const DType in : {DType::bf16, DType::f16}) {
    check_product(context, {33, 40, 17, false, true, in, in, 1, 0, true, true, true});
    check_product(context, {150, 270, 70, false, true, in, DType::f32, 0.5f, 1, false, false, true});
    check_product(context, {21, 77, 64, false, false, in, in, 1, 1, false, false, true});
    check_product(context, {70, 45, 130, true, false, in, DType::f32, 1, 1, false, false, true});
    check_product(context, {9, 24, 8, true, true, in, in, 1, 0, true, false, true});  // that one it does not take
  }
  const int64_t made = context.matmul_plans().hopper_products();
  CHECK(context.matmul_plans().products() == 10);
  if (!may_be_hopper(context))
    CHECK(made == 0);
  else if (forced_way() == ForcedWay::hopper)
    CHECK(made == 8);
  else
    CHECK((made > 0) == products_are_refused());  // small ones are not timed: what cuBLASLt does not have
}

TEST_CASE("a ReLU's mask of the forward product zeroes the backward one where the output was 0") {
  DeviceContext context(0);
  constexpr int64_t kRows = 19, kIn = 24, kOut = 136;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const Matrix input(context, dtype, kRows, kIn, kIn, 1), weight(context, dtype, kOut, kIn, kIn, 2);
    const Matrix bias(context, dtype, 1, kOut, kOut, 3), output(context, dtype, kRows, kOut, kOut, 4);
    const Matrix up(context, dtype, kRows, 11, 11, 5), up_weight(context, dtype, 11, kOut, kOut, 6);
    const Matrix gradient(context, dtype, kRows, kOut, kOut, 7), plain(context, dtype, kRows, kOut, kOut, 8);
    const int64_t mask_bytes = relu_mask_columns(kOut);
    CHECK(mask_bytes == 32);
    void* memory = context.allocate(kRows * mask_bytes, "test");
    const TensorView mask{memory, DType::u8, kRows, mask_bytes};
    MatmulArguments forward;
    forward.a = input.view();
    forward.b = weight.view();
    forward.transpose_b = true;
    forward.c = output.view();
    forward.bias = bias.view();
    forward.relu = true;
    forward.relu_mask = mask;
    matmul(context, forward);
    MatmulArguments backward;
    backward.a = up.view();
    backward.b = up_weight.view();
    backward.c = plain.view();
    matmul(context, backward);
    backward.c = gradient.view();
    backward.relu_derivative_mask = mask;
    matmul(context, backward);
    const std::vector<float> active = output.read(), masked = gradient.read(), whole = plain.read();
    for (size_t i = 0; i < active.size(); ++i) CHECK(masked[i] == (active[i] > 0 ? whole[i] : 0.0f));
    cudaFree(memory);
  }
}

TEST_CASE("a weight gradient accumulates and gives the bias gradient with it") {
  DeviceContext context(0);
  constexpr int64_t kRows = 50, kIn = 40, kOut = 24;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const Matrix gradient(context, dtype, kRows, kOut, kOut, 1), input(context, dtype, kRows, kIn, kIn, 2);
    const Matrix weight_gradient(context, DType::f32, kOut, kIn, kIn, 3), sums(context, DType::f32, 1, kOut, kOut, 4);
    MatmulArguments arguments;
    arguments.a = gradient.view();
    arguments.transpose_a = true;
    arguments.b = input.view();
    arguments.c = weight_gradient.view();
    arguments.beta = 1;
    arguments.a_sums = sums.view();
    matmul(context, arguments);
    const std::vector<float> got = sums.read(), weights = weight_gradient.read();
    for (int64_t o = 0; o < kOut; ++o) {
      double want = 0, magnitude = 0, product = weight_gradient.at(o, 7);
      for (int64_t row = 0; row < kRows; ++row) {
        want += gradient.at(row, o);
        magnitude += std::abs(gradient.at(row, o));
        product += gradient.at(row, o) * input.at(row, 7);
      }
      const double bound = (kRows + 4) * unit_roundoff(DType::f32) * (magnitude + 2);
      CHECK(std::abs(got[static_cast<size_t>(o)] - want) <= bound);
      CHECK(std::abs(weights[static_cast<size_t>(o * kIn + 7)] - product) <= bound);
    }
  }
}

TEST_CASE("batches are products of their own") {
  DeviceContext context(0);
  const Matrix a(context, DType::f32, 3 * 5, 4, 4, 1), out(context, DType::f32, 3 * 4, 4, 4, 2);
  MatmulArguments arguments;
  arguments.a = arguments.b = a.view().row_range(0, 5);
  arguments.transpose_a = true;
  arguments.c = out.view().row_range(0, 4);
  arguments.batch_count = 3;
  arguments.a_batch_stride = arguments.b_batch_stride = 20;
  arguments.c_batch_stride = 16;
  matmul(context, arguments);
  const std::vector<float> got = out.read();
  for (int64_t batch = 0; batch < 3; ++batch)
    for (int64_t i = 0; i < 4; ++i)
      for (int64_t j = 0; j < 4; ++j) {
        double want = 0;
        for (int64_t row = 0; row < 5; ++row) want += a.at(batch * 5 + row, i) * a.at(batch * 5 + row, j);
        CHECK(std::abs(got[static_cast<size_t>(batch * 16 + i * 4 + j)] - want) <= 1e-6);
      }
}

TEST_CASE("a large product is timed once, leaves what it adds to alone, and its choice is kept") {
  const std::filesystem::path file = std::filesystem::temp_directory_path() / "cbtm-matmul-choices-test.txt";
  std::filesystem::remove(file);
  DeviceContext context(0);
  // DeviceContext keeps its file elsewhere: here only what the file does is looked at.
  const cublasLtMatmulAlgo_t algorithm{{1, 2, 3, 4, 5, 6, 7, 0xffffffffffffffffull}};
  {
    MatmulChoices choices(file);
    CHECK(!choices.find("some shape").has_value());
    choices.add("some shape", algorithm);
  }
  std::ofstream(file, std::ios::app) << "damaged line\nother = 12 zz\n";
  MatmulChoices again(file);
  REQUIRE(again.find("some shape").has_value());
  CHECK(again.find("some shape")->data[7] == algorithm.data[7]);
  CHECK(!again.find("other").has_value());
  CHECK(!is_hopper(algorithm));
  CHECK(!is_unfused(algorithm));
  again.add("our kernel's", hopper_algorithm());
  CHECK(is_hopper(*MatmulChoices(file).find("our kernel's")));
  std::filesystem::remove(file);

  const Matrix a(context, DType::bf16, 512, 520, 520, 1), out(context, DType::f32, 512, 256, 256, 2);
  const Matrix b(context, DType::bf16, 520, 256, 256, 3), twice(context, DType::f32, 512, 256, 256, 2);
  MatmulArguments arguments;
  arguments.a = a.view();
  arguments.b = b.view();
  arguments.c = out.view();
  arguments.beta = 1;
  const std::vector<float> before = out.read();
  context.matmul_plans().tune(true);
  matmul(context, arguments);  // leaves any values
  context.matmul_plans().tune(false);
  context.copy_to_device(out.view().data, before.data(), static_cast<int64_t>(before.size()) * 4);
  matmul(context, arguments);
  arguments.c = twice.view();
  matmul(context, arguments);  // planned already: must give the same bits
  CHECK(out.read() == twice.read());
}

/// A GPU's context with plans of its own, whose choices are in a file of the test.
class ContextWithFile final : public Context {
 public:
  ContextWithFile(DeviceContext& context, const std::string& file) : context_(context), plans_(file, context.stream) {
    stream = context.stream;
    sm_count = context.sm_count;
    compute_capability = context.compute_capability;
    shared_bytes_per_block_max = context.shared_bytes_per_block_max;
  }
  void* workspace(int64_t bytes) override { return context_.workspace(bytes); }
  const int32_t* upload(std::span<const int32_t> values) override { return context_.upload(values); }
  SequenceTables& sequence_tables(const PassSequences& sequences) override {
    return context_.sequence_tables(sequences);
  }
  MatmulPlans& matmul_plans() override { return plans_; }

 private:
  DeviceContext& context_;
  MatmulPlans plans_;
};

TEST_CASE("a kept choice of the kernel for compute capability 9.0 is followed where the kernel is, else chosen anew") {
  const std::filesystem::path file =
      std::filesystem::temp_directory_path() / fmt::format("cbtm-matmul-hopper-test-{}.txt", getpid());
  std::filesystem::remove(file);
  DeviceContext device(0);
  const Matrix a(device, DType::bf16, 512, 520, 520, 1), b(device, DType::bf16, 264, 520, 520, 3);
  const Matrix out(device, DType::bf16, 512, 264, 264, 2);
  MatmulArguments arguments;
  arguments.a = a.view();
  arguments.b = b.view();
  arguments.transpose_b = true;
  arguments.c = out.view();
  const auto kept = [&] {
    std::ifstream stream(file);
    std::string line;
    std::getline(stream, line);
    return line;
  };
  const bool asked = forced_way() == ForcedWay::hopper && may_be_hopper(device);
  std::string key = "nothing = ";
  {
    ContextWithFile context(device, file);
    matmul(context, arguments);
    if (!products_are_refused()) CHECK(kept().empty() == asked);  // what a test asks for is no choice
    if (!kept().empty()) key = kept().substr(0, kept().find(" = "));
  }
  const std::vector<float> want = out.read();
  std::string ones;
  for (size_t word = 0; word < sizeof(cublasLtMatmulAlgo_t) / 4; ++word) ones += " ffffffff";
  std::ofstream(file) << key << " =" << ones << "\n";
  ContextWithFile context(device, file);
  matmul(context, arguments);
  CHECK(context.matmul_plans().hopper_products() == (may_be_hopper(device) ? 1 : 0));
  if (!products_are_refused()) CHECK((kept() == key + " =" + ones) == may_be_hopper(device));
  const std::vector<float> got = out.read();
  for (size_t i = 0; i < want.size(); ++i) CHECK(std::abs(got[i] - want[i]) <= 0x1p-7 * std::abs(want[i]) + 0x1p-7);
  std::filesystem::remove(file);
}

TEST_CASE("a product that adds to its output is not timed but while tuning: nothing is added twice") {
  DeviceContext context(0);
  const Matrix a(context, DType::bf16, 512, 520, 520, 1), out(context, DType::f32, 512, 264, 264, 2);
  const Matrix b(context, DType::bf16, 520, 264, 264, 3);
  MatmulArguments arguments;
  arguments.a = a.view();
  arguments.b = b.view();
  arguments.c = out.view();
  arguments.beta = 1;
  matmul(context, arguments);
  const std::vector<float> got = out.read();
  for (const auto& [i, j] : {std::pair<int64_t, int64_t>{0, 0}, {511, 263}, {100, 7}}) {
    double want = out.at(i, j), magnitude = std::abs(want);
    for (int64_t l = 0; l < 520; ++l) {
      want += a.at(i, l) * b.at(l, j);
      magnitude += std::abs(a.at(i, l) * b.at(l, j));
    }
    CHECK(std::abs(got[static_cast<size_t>(i * 264 + j)] - want) <= 524 * unit_roundoff(DType::f32) * magnitude);
  }
}

TEST_CASE("column sums in every type, of few and many rows and columns") {
  DeviceContext context(0);
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
    for (const auto& [rows, columns, stride] :
         {std::array<int64_t, 3>{1, 1, 1}, {7, 5, 9}, {700, 130, 136}, {3000, 24, 24}, {65, 1032, 1032}}) {
      CAPTURE(dtype_name(dtype));
      CAPTURE(rows);
      CAPTURE(columns);
      const Matrix values(context, dtype, rows, columns, stride, 1), sums(context, DType::f32, 1, columns, columns, 2);
      column_sums(context, values.view(), sums.view());
      const std::vector<float> got = sums.read();
      column_sums(context, values.view(), sums.view());
      CHECK(sums.read() == got);
      double worst = 0;
      for (int64_t c = 0; c < columns; ++c) {
        double want = 0, magnitude = 0;
        for (int64_t r = 0; r < rows; ++r) want += values.at(r, c), magnitude += std::abs(values.at(r, c));
        const double bound = static_cast<double>(rows) * unit_roundoff(DType::f32) * magnitude + 1e-30;
        worst = std::max(worst, std::abs(got[static_cast<size_t>(c)] - want) / bound);
      }
      CHECK(worst <= 1);
    }
}

}  // namespace cbtm::cuda
