// Residual + dropout + layer normalisation of the CUDA device against the CPU device. Tolerances are sums of rounding
// errors: half a unit of the stored type, and of float32 for every addition on the longer of both ways.

#include <algorithm>

#include "cbtm/device/model_operators.h"
#include "tests/cuda/attention_operands.h"

namespace cbtm {
namespace {

constexpr DType kTypes[] = {DType::f32, DType::bf16, DType::f16};

struct Shape {
  int64_t rows, width, stride, first_column;
};
// One element, odd widths, one below and above a warp's and a block's reach, real widths, rows that start anywhere.
const Shape kShapes[] = {{1, 1, 1, 0},         {3, 31, 31, 0},     {5, 768, 768, 0},   {2, 1023, 1040, 8},
                         {3, 129, 200, 3},     {2, 4104, 4104, 0}, {2, 4100, 4101, 1}, {2, 8200, 8200, 0},
                         {1, 12288, 12288, 0}, {1200, 40, 40, 0},  {0, 8, 8, 0}};

double float_errors(int64_t additions) { return 0x1p-24 * static_cast<double>(additions + 16); }

TEST_CASE("layernorm: the sum, its dropout and what is normalised equal the CPU's") {
  for (const DType dtype : kTypes) {
    for (const Shape& s : kShapes) {
      CAPTURE(dtype_name(dtype));
      CAPTURE(s.rows);
      CAPTURE(s.width);
      Matrix residual(dtype, s.rows, s.width, s.stride, s.first_column);
      Matrix branch = Matrix(dtype, s.rows, s.width, s.stride, s.first_column);
      Matrix sum(dtype, s.rows, s.width, s.stride, s.first_column),
          normalized(dtype, s.rows, s.width, s.stride, s.first_column);
      Matrix gamma(s.width % 2 == 0 ? dtype : DType::f32, 1, s.width, s.width, 0),
          beta(DType::f32, 1, s.width, s.width, 0);
      Matrix mean(DType::f32, 1, s.rows, s.rows, 0), rstd(DType::f32, 1, s.rows, s.rows, 0);
      residual.randomize(1);
      branch.randomize(2);
      gamma.randomize(3);
      beta.randomize(4);
      for (Matrix* written : {&sum, &normalized, &mean, &rstd}) written->upload();
      if (s.rows > 0 && s.width > 4) {  // outliers as in OPT's residual stream, and rows far from zero
        residual.at(0, s.width / 2) = 6000;
        for (int64_t c = 0; c < s.width; ++c) residual.at(s.rows - 1, c) += 300;
        residual.upload();
      }
      const Dropout dropout{.probability = 0.3f, .seed = 77, .step = 3, .site = 5, .first_row = 1'000'003};
      const auto arguments = [&](bool cuda) {
        return ResidualLayerNormForward{.residual = cuda ? residual.cuda() : residual.cpu(),
                                        .branch = cuda ? branch.cuda() : branch.cpu(),
                                        .dropout = dropout,
                                        .gamma = cuda ? gamma.cuda() : gamma.cpu(),
                                        .beta = cuda ? beta.cuda() : beta.cpu(),
                                        .sum = cuda ? sum.cuda() : sum.cpu(),
                                        .normalized = cuda ? normalized.cuda() : normalized.cpu(),
                                        .mean = cuda ? mean.cuda() : mean.cpu(),
                                        .rstd = cuda ? rstd.cuda() : rstd.cpu()};
      };
      cuda_device().model_operators().residual_layernorm_forward(arguments(true));
      cpu_device().model_operators().residual_layernorm_forward(arguments(false));
      const std::vector<float> got_sum = sum.from_cuda(), want_sum = sum.from_cpu();
      std::vector<double> tolerance;
      for (const float value : want_sum)
        tolerance.push_back(unit_roundoff(dtype) * 1.01 * std::abs(static_cast<double>(value)) + 0x1p-22);
      CHECK(error_in_tolerances(got_sum, want_sum, tolerance) <= 1);

      // The statistics are those of the sum as the GPU stored it: the CPU's of the same numbers.
      for (int64_t r = 0; r < s.rows; ++r)
        for (int64_t c = 0; c < s.width; ++c) residual.at(r, c) = got_sum[static_cast<size_t>(r * s.width + c)];
      ResidualLayerNormForward again = arguments(false);
      again.branch = {};
      again.dropout = {};
      cpu_device().model_operators().residual_layernorm_forward(again);
      const std::vector<float> want = normalized.from_cpu(), means = mean.from_cpu(), rstds = rstd.from_cpu();
      std::vector<double> mean_tolerance, rstd_tolerance;
      tolerance.clear();
      for (int64_t r = 0; r < s.rows; ++r) {
        const auto row = static_cast<size_t>(r);
        double high = 0;
        for (int64_t c = 0; c < s.width; ++c) high = std::max(high, std::abs(static_cast<double>(residual.at(r, c))));
        const double scale = high * static_cast<double>(rstds[row]);
        const double errors = float_errors(s.width / 4);
        mean_tolerance.push_back(errors * high);
        rstd_tolerance.push_back(errors * static_cast<double>(rstds[row]) * (1 + scale));
        for (int64_t c = 0; c < s.width; ++c)
          tolerance.push_back(unit_roundoff(dtype) * 1.01 * std::abs(static_cast<double>(want[tolerance.size()])) +
                              2 * errors * (scale + scale * scale * 0x1p-10 + 1));
      }
      CHECK(error_in_tolerances(mean.from_cuda(), means, mean_tolerance) <= 1);
      CHECK(error_in_tolerances(rstd.from_cuda(), rstds, rstd_tolerance) <= 1);
      CHECK(error_in_tolerances(normalized.from_cuda(), want, tolerance) <= 1);
    }
  }
}

TEST_CASE("layernorm: dropout drops the CPU's elements, wherever a batch is cut, forward and backward") {
  for (const int64_t width : {1, 3, 31, 64, 129}) {
    for (const int64_t first_row : {int64_t{0}, int64_t{7}, (int64_t{1} << 34) / width}) {
      CAPTURE(width);
      CAPTURE(first_row);
      Matrix zeros(DType::bf16, 5, width, width, 0), ones(DType::bf16, 5, width, width, 0);
      Matrix sum(DType::bf16, 5, width, width, 0), gradient(DType::bf16, 5, width, width, 0);
      for (int64_t i = 0; i < 5 * width; ++i) ones.at(i / width, i % width) = 1;
      for (Matrix* matrix : {&zeros, &ones, &sum, &gradient}) matrix->upload();
      const Dropout dropout{
          .probability = 0.25f, .seed = 0x123456789abcdefull, .step = 5, .site = 9, .first_row = first_row};
      cpu_device().model_operators().residual_layernorm_forward({.residual = zeros.cpu(),
                                                                 .branch = ones.cpu(),
                                                                 .dropout = dropout,
                                                                 .gamma = {},
                                                                 .beta = {},
                                                                 .sum = sum.cpu(),
                                                                 .normalized = {},
                                                                 .mean = {},
                                                                 .rstd = {}});
      cuda_device().model_operators().residual_layernorm_forward({.residual = zeros.cuda(),
                                                                  .branch = ones.cuda(),
                                                                  .dropout = dropout,
                                                                  .gamma = {},
                                                                  .beta = {},
                                                                  .sum = sum.cuda(),
                                                                  .normalized = {},
                                                                  .mean = {},
                                                                  .rstd = {}});
      const std::vector<float> dropped = sum.from_cuda();
      for (size_t i = 0; i < dropped.size(); ++i) CHECK(dropped[i] == to_float(to_bf16(sum.from_cpu()[i])));
      cuda_device().model_operators().residual_layernorm_backward({.normalized_gradient = {},
                                                                   .sum_gradient_in = ones.cuda(),
                                                                   .sum = {},
                                                                   .mean = {},
                                                                   .rstd = {},
                                                                   .gamma = {},
                                                                   .dropout = dropout,
                                                                   .sum_gradient = ones.cuda(),
                                                                   .branch_gradient = gradient.cuda(),
                                                                   .gamma_gradient = {},
                                                                   .beta_gradient = {}});
      CHECK(gradient.from_cuda() == dropped);
      CHECK(ones.from_cuda() == ones.from_cpu());
    }
  }
}

TEST_CASE("layernorm: gradients equal the CPU's, and their bits repeat") {
  for (const DType dtype : kTypes) {
    for (const Shape& s : kShapes) {
      CAPTURE(dtype_name(dtype));
      CAPTURE(s.rows);
      CAPTURE(s.width);
      const auto matrix = [&](uint64_t seed) {
        Matrix made(dtype, s.rows, s.width, s.stride, s.first_column);
        made.randomize(seed);
        return made;
      };
      Matrix gradient = matrix(1), incoming = matrix(2), sum = matrix(3), out = matrix(4), branch = matrix(5);
      Matrix gamma(DType::f32, 1, s.width, s.width, 0), dgamma(DType::f32, 1, s.width, s.width, 0),
          dbeta(DType::f32, 1, s.width, s.width, 0);
      Matrix mean(DType::f32, 1, s.rows, s.rows, 0), rstd(DType::f32, 1, s.rows, s.rows, 0);
      gamma.randomize(6);
      dgamma.randomize(7);
      dbeta.randomize(8);
      if (s.rows > 0 && s.width > 4) sum.at(0, s.width / 2) = 6000;
      sum.upload();
      cpu_device().model_operators().residual_layernorm_forward({.residual = sum.cpu(),
                                                                 .branch = {},
                                                                 .dropout = {},
                                                                 .gamma = {},
                                                                 .beta = {},
                                                                 .sum = {},
                                                                 .normalized = out.cpu(),
                                                                 .mean = mean.cpu(),
                                                                 .rstd = rstd.cpu()});
      mean.upload();
      rstd.upload();
      const std::vector<float> units = out.from_cpu();
      const Dropout dropout{.probability = 0.2f, .seed = 5, .step = 1, .site = 2, .first_row = 9};
      const auto arguments = [&](bool cuda) {
        return ResidualLayerNormBackward{.normalized_gradient = cuda ? gradient.cuda() : gradient.cpu(),
                                         .sum_gradient_in = cuda ? incoming.cuda() : incoming.cpu(),
                                         .sum = cuda ? sum.cuda() : sum.cpu(),
                                         .mean = cuda ? mean.cuda() : mean.cpu(),
                                         .rstd = cuda ? rstd.cuda() : rstd.cpu(),
                                         .gamma = cuda ? gamma.cuda() : gamma.cpu(),
                                         .dropout = dropout,
                                         .sum_gradient = cuda ? out.cuda() : out.cpu(),
                                         .branch_gradient = cuda ? branch.cuda() : branch.cpu(),
                                         .gamma_gradient = cuda ? dgamma.cuda() : dgamma.cpu(),
                                         .beta_gradient = cuda ? dbeta.cuda() : dbeta.cpu()};
      };
      const std::vector<float> dgamma_before = dgamma.from_cpu(), dbeta_before = dbeta.from_cpu();
      cuda_device().model_operators().residual_layernorm_backward(arguments(true));
      const std::vector<float> first_run[] = {out.from_cuda(), branch.from_cuda(), dgamma.from_cuda(),
                                              dbeta.from_cuda()};
      dgamma.upload();
      dbeta.upload();
      cuda_device().model_operators().residual_layernorm_backward(arguments(true));
      CHECK(first_run[0] == out.from_cuda());
      CHECK(first_run[1] == branch.from_cuda());
      CHECK(first_run[2] == dgamma.from_cuda());
      CHECK(first_run[3] == dbeta.from_cuda());

      cpu_device().model_operators().residual_layernorm_backward(arguments(false));
      std::vector<double> out_tolerance, branch_tolerance, dgamma_tolerance, dbeta_tolerance;
      for (int64_t r = 0; r < s.rows; ++r) {
        const double r_rstd = static_cast<double>(rstd.at(0, r));
        double high_unit = 0, high_x = std::abs(static_cast<double>(mean.at(0, r)));
        for (int64_t c = 0; c < s.width; ++c) {
          high_unit = std::max(high_unit, std::abs(static_cast<double>(units[static_cast<size_t>(r * s.width + c)])));
          high_x = std::max(high_x, std::abs(static_cast<double>(sum.at(r, c))));
        }
        // |g| <= 1; its mean and that of g * unit carry errors of the additions, unit those of x - mean.
        const double bound = r_rstd * (2 + high_unit * high_unit + high_unit * r_rstd * high_x) + 1;
        for (int64_t c = 0; c < s.width; ++c) {
          const double error = float_errors(s.width / 4) * bound;
          out_tolerance.push_back(unit_roundoff(dtype) * 1.01 * std::abs(static_cast<double>(out.at(r, c))) + error);
          branch_tolerance.push_back(unit_roundoff(dtype) * 1.01 * std::abs(static_cast<double>(branch.at(r, c))) +
                                     1.25 * error);
        }
      }
      for (int64_t c = 0; c < s.width; ++c) {
        double sums = 1, unit_sums = 1;
        for (int64_t r = 0; r < s.rows; ++r) {
          const double dy = std::abs(static_cast<double>(gradient.at(r, c)));
          const double x = std::abs(static_cast<double>(sum.at(r, c))) + std::abs(static_cast<double>(mean.at(0, r)));
          sums += dy;
          unit_sums += dy * (std::abs(static_cast<double>(units[static_cast<size_t>(r * s.width + c)])) +
                             x * static_cast<double>(rstd.at(0, r)));
        }
        dgamma_tolerance.push_back(float_errors(s.rows) * unit_sums);
        dbeta_tolerance.push_back(float_errors(s.rows) * sums);
      }
      CHECK(error_in_tolerances(first_run[0], out.from_cpu(), out_tolerance) <= 1);
      CHECK(error_in_tolerances(first_run[1], branch.from_cpu(), branch_tolerance) <= 1);
      CHECK(error_in_tolerances(first_run[2], dgamma.from_cpu(), dgamma_tolerance) <= 1);
      CHECK(error_in_tolerances(first_run[3], dbeta.from_cpu(), dbeta_tolerance) <= 1);
    }
  }
}

TEST_CASE("layernorm: a hidden size beyond the largest is refused") {
  Matrix wide(DType::bf16, 1, 12296, 12296, 0);
  wide.randomize(1);
  CHECK_THROWS_WITH_AS(cuda_device().model_operators().residual_layernorm_forward({.residual = wide.cuda(),
                                                                                   .branch = {},
                                                                                   .dropout = {},
                                                                                   .gamma = {},
                                                                                   .beta = {},
                                                                                   .sum = {},
                                                                                   .normalized = wide.cuda(),
                                                                                   .mean = {},
                                                                                   .rstd = {}}),
                       doctest::Contains("up to 12288 columns"), Error);
}

}  // namespace
}  // namespace cbtm
