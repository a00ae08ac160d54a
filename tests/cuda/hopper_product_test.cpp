// Products by TMA and wgmma with their epilogues, against sums in float64: tiles that are whole and that are not, more
// tiles than blocks, and what must not be written.

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <vector>

#include "device_context.h"
#include "hopper/available.h"
#include "hopper/product.h"
#include "tests/cuda/product_matrix.h"

namespace cbtm::cuda {
namespace {

constexpr int64_t kPadding = 8;  ///< elements between rows

struct ProductCase {
  int64_t m, n, k;
  bool transpose_a, transpose_b;
  DType in, out;
  float alpha = 1, beta = 0;
  bool bias = false, relu = false, mask = false, derivative = false, a_sums = false;
};

/// A ReLU's mask on the GPU.
class Mask {
 public:
  Mask(DeviceContext& context, int64_t rows, int64_t columns, uint8_t fill)
      : context_(context), bytes(static_cast<size_t>(rows * relu_mask_columns(columns)), fill) {
    const auto size = static_cast<int64_t>(bytes.size());
    view = {context.allocate(size, "test"), DType::u8, rows, relu_mask_columns(columns)};
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(bytes[i] + 37 * i * i);
    context.copy_to_device(view.data, bytes.data(), size);
  }
  Mask(const Mask&) = delete;
  Mask& operator=(const Mask&) = delete;
  ~Mask() { cudaFree(view.data); }
  void read() { context_.copy_to_host(bytes.data(), view.data, static_cast<int64_t>(bytes.size())); }
  bool at(int64_t row, int64_t column) const {
    return (bytes[static_cast<size_t>(row * view.columns + column / 8)] >> (column % 8) & 1) != 0;
  }

 private:
  DeviceContext& context_;

 public:
  std::vector<uint8_t> bytes;
  TensorView view;
};

/// c of the first two rows of a and so on: everything of `product_case`, in memory of its own.
struct Operands {
  Operands(DeviceContext& context, const ProductCase& p)
      : a(context, p.in, p.transpose_a ? p.k : p.m, p.transpose_a ? p.m : p.k, stride(p.transpose_a ? p.m : p.k), 1),
        b(context, p.in, p.transpose_b ? p.n : p.k, p.transpose_b ? p.k : p.n, stride(p.transpose_b ? p.k : p.n), 2),
        c(context, p.out, p.m, p.n, stride(p.n), 3),
        bias(context, p.out, 1, p.n, p.n, 4),
        sums(context, p.out, 1, p.m, p.m, 5),
        mask(context, p.m, p.n, 7),
        derivative(context, p.m, p.n, 91) {
    arguments.a = a.view();
    arguments.b = b.view();
    arguments.transpose_a = p.transpose_a;
    arguments.transpose_b = p.transpose_b;
    arguments.c = c.view();
    arguments.alpha = p.alpha;
    arguments.beta = p.beta;
    if (p.bias) arguments.bias = bias.view();
    arguments.relu = p.relu;
    if (p.mask) arguments.relu_mask = mask.view;
    if (p.derivative) arguments.relu_derivative_mask = derivative.view;
    if (p.a_sums) arguments.a_sums = sums.view();
  }
  static int64_t stride(int64_t columns) { return round_up(columns, 8) + kPadding; }

  Matrix a, b, c, bias, sums;
  Mask mask, derivative;
  MatmulArguments arguments;
};

double bound_of(DType out, int64_t terms, double magnitude, double want) {
  return static_cast<double>(terms + 4) * unit_roundoff(DType::f32) * magnitude + unit_roundoff(out) * std::abs(want) +
         1e-30;
}

void check_sums(const Operands& o, const ProductCase& p) {
  const std::vector<float> got = o.sums.read();
  double worst = 0;
  for (int64_t i = 0; i < p.m; ++i) {
    double want = 0, magnitude = 0;
    for (int64_t l = 0; l < p.k; ++l) {
      want += o.a.at(l, i);
      magnitude += std::abs(o.a.at(l, i));
    }
    worst =
        std::max(worst, std::abs(got[static_cast<size_t>(i)] - p.alpha * want) / bound_of(p.out, p.k, magnitude, want));
  }
  CHECK(worst <= 1);
}

void check_product(DeviceContext& context, const ProductCase& p) {
  CAPTURE(p.m);
  CAPTURE(p.n);
  CAPTURE(p.k);
  CAPTURE(p.transpose_a);
  CAPTURE(p.transpose_b);
  CAPTURE(dtype_name(p.in));
  CAPTURE(dtype_name(p.out));
  Operands o(context, p);
  REQUIRE(hopper::product_applies(context, o.arguments));
  hopper::product(context, o.arguments);
  const std::vector<float> got = o.c.read();
  o.mask.read();
  const int64_t row_length = Operands::stride(p.n);
  double worst = 0;
  int64_t changed_outside = 0, wrong_bits = 0;
  for (int64_t i = 0; i < p.m; ++i)
    for (int64_t j = 0; j < row_length; ++j) {
      const double value = got[static_cast<size_t>(i * row_length + j)], before = o.c.at(i, j);
      if (j >= p.n) {
        changed_outside += value != before;
        continue;
      }
      double sum = 0, magnitude = 0;
      for (int64_t l = 0; l < p.k; ++l) {
        const double term =
            (p.transpose_a ? o.a.at(l, i) : o.a.at(i, l)) * (p.transpose_b ? o.b.at(j, l) : o.b.at(l, j));
        sum += term;
        magnitude += std::abs(term);
      }
      const double bias = p.bias ? o.bias.at(0, j) : 0;
      double want = p.alpha * sum + p.beta * before + bias;
      magnitude = std::abs(p.alpha) * magnitude + std::abs(p.beta * before) + std::abs(bias);
      if (p.relu) want = std::max(want, 0.0);
      if (p.derivative && !o.derivative.at(i, j)) want = magnitude = 0;
      worst = std::max(worst, std::abs(value - want) / bound_of(p.out, p.k, magnitude, want));
      if (p.mask) wrong_bits += o.mask.at(i, j) != (value > 0);
    }
  CHECK(worst <= 1);
  CHECK(changed_outside == 0);
  CHECK(wrong_bits == 0);
  if (p.mask)  // the rest of a row's last 16 bytes, which others may read
    for (int64_t j = p.n; j < 8 * relu_mask_columns(p.n); ++j) wrong_bits += o.mask.at(p.m - 1, j);
  CHECK(wrong_bits == 0);
  if (p.a_sums) check_sums(o, p);
  if (p.beta != 0) return;
  hopper::product(context, o.arguments);
  CHECK(o.c.read() == got);
}

constexpr DType kHalves[] = {DType::bf16, DType::f16};

bool is_skipped(const DeviceContext& context) {
  REQUIRE(hopper::is_built());
  if (hopper::is_available(context)) return false;
  MESSAGE("SKIPPED: compute capability ", context.compute_capability, " has no wgmma");
  return true;
}

}  // namespace

TEST_CASE("forward products with bias, ReLU and its mask; rows and columns beyond the last whole tile") {
  DeviceContext context(0);
  if (is_skipped(context)) return;
  for (const DType half : kHalves) {
    check_product(context,
                  {.m = 128, .n = 256, .k = 64, .transpose_a = false, .transpose_b = true, .in = half, .out = half});
    check_product(context, {.m = 300,
                            .n = 264,
                            .k = 136,
                            .transpose_a = false,
                            .transpose_b = true,
                            .in = half,
                            .out = half,
                            .bias = true});
    check_product(context, {.m = 131,
                            .n = 301,
                            .k = 328,
                            .transpose_a = false,
                            .transpose_b = true,
                            .in = half,
                            .out = half,
                            .bias = true,
                            .relu = true,
                            .mask = true});
    check_product(context, {.m = 1,
                            .n = 1,
                            .k = 1,
                            .transpose_a = false,
                            .transpose_b = true,
                            .in = half,
                            .out = half,
                            .alpha = 0.5f,
                            .bias = true,
                            .relu = true});
    check_product(
        context,
        {.m = 70, .n = 263, .k = 72, .transpose_a = false, .transpose_b = true, .in = half, .out = DType::f32});
  }
}

TEST_CASE("input gradients with the ReLU's derivative, or added to what is there") {
  DeviceContext context(0);
  if (is_skipped(context)) return;
  for (const DType half : kHalves) {
    check_product(context, {.m = 140,
                            .n = 392,
                            .k = 200,
                            .transpose_a = false,
                            .transpose_b = false,
                            .in = half,
                            .out = half,
                            .derivative = true});
    check_product(
        context,
        {.m = 260, .n = 77, .k = 64, .transpose_a = false, .transpose_b = false, .in = half, .out = half, .beta = 1});
    check_product(context, {.m = 3,
                            .n = 72,
                            .k = 5,
                            .transpose_a = false,
                            .transpose_b = false,
                            .in = half,
                            .out = half,
                            .derivative = true});
  }
}

TEST_CASE("weight gradients are added, with the bias gradient beside them") {
  DeviceContext context(0);
  if (is_skipped(context)) return;
  for (const DType half : kHalves) {
    check_product(context, {.m = 264,
                            .n = 300,
                            .k = 333,
                            .transpose_a = true,
                            .transpose_b = false,
                            .in = half,
                            .out = DType::f32,
                            .beta = 1,
                            .a_sums = true});
    check_product(context, {.m = 65,
                            .n = 515,
                            .k = 64,
                            .transpose_a = true,
                            .transpose_b = false,
                            .in = half,
                            .out = DType::f32,
                            .alpha = 0.25f,
                            .a_sums = true});
    check_product(context,
                  {.m = 256, .n = 7, .k = 3, .transpose_a = true, .transpose_b = false, .in = half, .out = DType::f32});
  }
}

TEST_CASE("more tiles than clusters: the stages go round from tile to tile, and the order of tiles covers c") {
  DeviceContext context(0);
  if (is_skipped(context)) return;
  for (const int multiprocessors : {2, 5}) {
    context.sm_count = multiprocessors;
    check_product(context, {.m = 700,
                            .n = 520,
                            .k = 72,
                            .transpose_a = false,
                            .transpose_b = true,
                            .in = DType::bf16,
                            .out = DType::bf16,
                            .bias = true,
                            .relu = true,
                            .mask = true});
    check_product(context, {.m = 520,
                            .n = 600,
                            .k = 200,
                            .transpose_a = true,
                            .transpose_b = false,
                            .in = DType::bf16,
                            .out = DType::f32,
                            .beta = 1,
                            .a_sums = true});
  }
  context.sm_count = 4;  // ten rows of tiles: more than one group of eight
  check_product(context, {.m = 2500,
                          .n = 264,
                          .k = 8,
                          .transpose_a = false,
                          .transpose_b = false,
                          .in = DType::bf16,
                          .out = DType::bf16,
                          .derivative = true});
}

TEST_CASE("what the kernel does not take") {
  DeviceContext context(0);
  if (is_skipped(context)) return;
  const auto applies = [&](const ProductCase& p, auto change) {
    Operands o(context, p);
    change(o.arguments);
    return hopper::product_applies(context, o.arguments);
  };
  const ProductCase forward{
      .m = 8, .n = 8, .k = 8, .transpose_a = false, .transpose_b = true, .in = DType::bf16, .out = DType::bf16};
  const auto nothing = [](MatmulArguments&) {};
  CHECK(applies(forward, nothing));
  CHECK(!applies(forward, [](MatmulArguments& m) { m.a.row_stride += 1; }));
  CHECK(!applies(forward, [](MatmulArguments& m) { m.b.data = static_cast<const char*>(m.b.data) + 2; }));
  CHECK(!applies(forward, [](MatmulArguments& m) { m.c.row_stride += 4; }));
  CHECK(!applies(forward, [](MatmulArguments& m) { m.batch_count = 2; }));
  CHECK(!applies(forward, [](MatmulArguments& m) { m.transpose_a = true; }));
  ProductCase other = forward;
  other.in = other.out = DType::f32;
  CHECK(!applies(other, nothing));
  other = forward;
  other.out = DType::f32;
  CHECK(applies(other, nothing));
  other.bias = true;
  CHECK(!applies(other, nothing));
  context.compute_capability = 100;  // later ones have no wgmma
  CHECK(!applies(forward, nothing));
}

}  // namespace cbtm::cuda
