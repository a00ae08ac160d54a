// Copies of the CUDA device that change the floating type, bit by bit against the host's conversions.

#include "tests/cuda/attention_operands.h"

namespace cbtm {
namespace {

constexpr DType kTypes[] = {DType::f32, DType::bf16, DType::f16};

TEST_CASE("copies convert between the floating types as the host does, and keep to their rows") {
  struct Shape {
    int64_t rows, columns, stride, first_column;
  };
  for (const Shape& s :
       {Shape{1, 1, 1, 0}, {3, 5, 5, 0}, {4, 9, 16, 3}, {7, 64, 64, 0}, {2, 5000, 5008, 8}, {0, 4, 4, 0}}) {
    for (const DType from : kTypes) {
      for (const DType to : kTypes) {
        CAPTURE(dtype_name(from));
        CAPTURE(dtype_name(to));
        CAPTURE(s.columns);
        Matrix source(from, s.rows, s.columns, s.stride, s.first_column),
            target(to, s.rows, s.columns, s.stride, s.first_column);
        source.randomize(1, 100);
        const float edges[] = {0.0f,  -0.0f, INFINITY, -INFINITY, 65519,    65520,     -70000,
                               1e-7f, 6e-8f, 2.9e-8f,  1e-40f,    3.39e38f, 0x1.01p0f, 0x1.03p0f};
        for (int64_t i = 0; i < std::min<int64_t>(s.rows * s.columns, 14); ++i)
          source.at(i / s.columns, i % s.columns) = edges[i];
        source.upload();
        target.randomize(2);
        cuda_device().copy(target.cuda(), source.cuda());
        bool outside_kept = true;
        CHECK(target.from_cuda(&outside_kept) == decoded(encoded(source.from_cpu(), to), to));
        CHECK(outside_kept);
      }
    }
  }
}

TEST_CASE("NaN stays NaN in every type") {
  for (const DType from : kTypes) {
    for (const DType to : kTypes) {
      Matrix source(from, 1, 9, 9, 0), target(to, 1, 9, 9, 0);
      for (int64_t i = 0; i < 9; ++i) source.at(0, i) = NAN;
      source.upload();
      target.upload();
      cuda_device().copy(target.cuda(), source.cuda());
      for (const float value : target.from_cuda()) CHECK(std::isnan(value));
    }
  }
}

}  // namespace
}  // namespace cbtm
