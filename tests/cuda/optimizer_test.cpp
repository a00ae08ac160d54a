// The gradient's square sum and AdamW of the CUDA device against the CPU device.

#include "cbtm/device/optimizer_operators.h"
#include "tests/cuda/attention_operands.h"

namespace cbtm {
namespace {

double square_sum_of(Matrix& gradients, DeviceBuffer& target) {
  const TensorView view = target.view(DType::f64, 1, 1);
  cuda_device().optimizer_operators().gradient_square_sum(gradients.cuda(), view);
  double sum = 0;
  cuda_device().copy_to_host(&sum, view.data, 8);
  return sum;
}

TEST_CASE("the gradient's square sum is that of float64, repeats, and shows what is not finite") {
  DeviceBuffer target = cuda_device().allocate(8, "square sum");
  for (const int64_t count : {0, 1, 3, 4, 5, 511, 2049, 1'000'003}) {
    for (const int64_t shift : {0, 1}) {
      CAPTURE(count);
      CAPTURE(shift);
      Matrix gradients(DType::f32, 1, count, count + shift, shift);
      gradients.randomize(1, 3);
      double want = 0;
      for (const float g : gradients.from_cpu()) want += static_cast<double>(g) * static_cast<double>(g);
      const double got = square_sum_of(gradients, target);
      CHECK(std::abs(got - want) <= 17 * 0x1p-24 * want);  // 16 squares are added in float32
      CHECK(square_sum_of(gradients, target) == got);
      if (count < 3) continue;
      for (const float bad : {NAN, INFINITY, -INFINITY, 1e30f}) {
        gradients.at(0, count - 1) = bad;
        gradients.upload();
        CHECK(!std::isfinite(square_sum_of(gradients, target)));
      }
    }
  }
}

TEST_CASE("adamw equals the CPU's, with clipping, a loss scale and a working copy; gradients become zero") {
  DeviceBuffer target = cuda_device().allocate(8, "square sum");
  for (const int64_t count : {1, 3, 6, 1000, 5003}) {
    for (const int64_t shift : {0, 1}) {
      for (const DType working_type : {DType::bf16, DType::f16}) {
        CAPTURE(count);
        CAPTURE(shift);
        const auto flat = [&](uint64_t seed, float scale) {
          Matrix made(DType::f32, 1, count, count + shift, shift);
          made.randomize(seed, scale);
          return made;
        };
        Matrix w = flat(1, 1), g = flat(2, 64), m = flat(3, 0.5f), v = flat(4, 0.5f);
        for (int64_t i = 0; i < count; ++i) v.at(0, i) = std::abs(v.at(0, i));
        v.upload();
        Matrix working(working_type, 1, count, count + shift, shift);
        working.upload();
        for (int step = 1; step <= 3; ++step) {
          double square_sum = square_sum_of(g, target);
          const auto arguments = [&](bool cuda) {
            return AdamW{.weights = cuda ? w.cuda() : w.cpu(),
                         .gradients = cuda ? g.cuda() : g.cpu(),
                         .first_moments = cuda ? m.cuda() : m.cpu(),
                         .second_moments = cuda ? v.cuda() : v.cpu(),
                         .working_weights = cuda ? working.cuda() : TensorView(),
                         .gradient_square_sum = cuda ? target.view(DType::f64, 1, 1) : view_of(&square_sum, 1, 1),
                         .loss_scale = 64,
                         .decayed_count = count / 2,
                         .step = step,
                         .learning_rate = 0.01f,
                         .weight_decay = 0.1f,
                         .clip_norm = step == 2 ? 0.0f : 1.0f};
          };
          cuda_device().optimizer_operators().adamw(arguments(true));
          cpu_device().optimizer_operators().adamw(arguments(false));
          g.randomize(10 + static_cast<uint64_t>(step), 64);
        }
        // A few roundings a step of numbers up to 2, on the CPU without fused multiply-add.
        const std::vector<double> tolerance(static_cast<size_t>(count), 3 * 8 * 0x1p-23);
        CHECK(error_in_tolerances(w.from_cuda(), w.from_cpu(), tolerance) <= 1);
        CHECK(error_in_tolerances(m.from_cuda(), m.from_cpu(), tolerance) <= 1);
        CHECK(error_in_tolerances(v.from_cuda(), v.from_cpu(), tolerance) <= 1);
        CHECK(working.from_cuda() == decoded(encoded(w.from_cuda(), working_type), working_type));
      }
    }
  }
}

TEST_CASE("adamw zeroes the gradients, and that is all where they are not finite") {
  DeviceBuffer target = cuda_device().allocate(8, "square sum");
  for (const float bad : {0.5f, NAN, INFINITY}) {
    CAPTURE(bad);
    Matrix w(DType::f32, 1, 77, 77, 0), g = Matrix(DType::f32, 1, 77, 77, 0), m(DType::f32, 1, 77, 77, 0),
                                        v(DType::f32, 1, 77, 77, 0), working(DType::bf16, 1, 77, 77, 0);
    for (Matrix* matrix : {&w, &g, &m, &v, &working}) matrix->randomize(1);
    for (int64_t i = 0; i < 77; ++i) v.at(0, i) = 0.5f;
    v.upload();
    g.at(0, 76) = bad;
    g.upload();
    square_sum_of(g, target);
    cuda_device().optimizer_operators().adamw({.weights = w.cuda(),
                                               .gradients = g.cuda(),
                                               .first_moments = m.cuda(),
                                               .second_moments = v.cuda(),
                                               .working_weights = working.cuda(),
                                               .gradient_square_sum = target.view(DType::f64, 1, 1),
                                               .decayed_count = 77,
                                               .learning_rate = 0.1f,
                                               .clip_norm = 1});
    CHECK(g.from_cuda() == std::vector<float>(77, 0.0f));
    const bool updated = std::isfinite(bad);
    CHECK((w.from_cuda() != w.from_cpu()) == updated);
    CHECK((m.from_cuda() != m.from_cpu()) == updated);
    CHECK((v.from_cuda() != v.from_cpu()) == updated);
    CHECK((working.from_cuda() != working.from_cpu()) == updated);
  }
}

}  // namespace
}  // namespace cbtm
