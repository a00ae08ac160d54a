// Output layer and cross-entropy of the CUDA device: against the CPU device in float32, and in every type against plain
// loops in float64 over the same rounded operands.

#include <algorithm>

#include "cbtm/device/model_operators.h"
#include "tests/cuda/attention_operands.h"

namespace cbtm {
namespace {

struct Shape {
  int64_t rows, width, vocab;
};

/// Operands of a shape; every fifth target is ignored.
struct Case {
  Shape shape;
  DType dtype;
  Matrix hidden, table, losses, hidden_gradient, table_gradient;
  std::vector<int32_t> targets;
  DeviceBuffer target_buffer, sum_buffer;
  double cpu_sum = 0.5;
  static constexpr float kScale = 0.75f;

  Case(const Shape& s, DType type) : Case(s, type, type) {}
  Case(const Shape& s, DType type, DType table_type)
      : shape(s),
        dtype(type),
        hidden(type, s.rows, s.width, s.width, 0),
        table(table_type, s.vocab, s.width, s.width, 0),
        losses(DType::f32, 1, s.rows, s.rows, 0),
        hidden_gradient(type, s.rows, s.width, s.width, 0),
        table_gradient(DType::f32, s.vocab, s.width, s.width, 0) {
    hidden.randomize(1, 2);
    table.randomize(2);
    losses.randomize(3);
    hidden_gradient.randomize(4);
    table_gradient.randomize(5);
    PhiloxStream stream(6, 1);
    for (int64_t r = 0; r < s.rows; ++r)
      targets.push_back(r % 5 == 1 ? -100 : static_cast<int32_t>(stream.next_below(static_cast<uint64_t>(s.vocab))));
    targets.back() = static_cast<int32_t>(s.vocab - 1);
    target_buffer = cuda_device().allocate(s.rows * 4, "targets");
    sum_buffer = cuda_device().allocate(8, "loss");
    cuda_device().copy_to_device(target_buffer.data(), targets.data(), s.rows * 4);
    cuda_device().copy_to_device(sum_buffer.data(), &cpu_sum, 8);
  }
  OutputLoss arguments(bool cuda, bool gradients) {
    return {.hidden = cuda ? hidden.cuda() : hidden.cpu(),
            .table = cuda ? table.cuda() : table.cpu(),
            .targets = cuda ? ConstTensorView(target_buffer.view(DType::i32, 1, shape.rows))
                            : ConstTensorView(view_of(targets.data(), 1, shape.rows)),
            .losses = cuda ? losses.cuda() : losses.cpu(),
            .loss_sum = cuda ? sum_buffer.view(DType::f64, 1, 1) : view_of(&cpu_sum, 1, 1),
            .gradient_scale = kScale,
            .hidden_gradient = !gradients ? TensorView()
                               : cuda     ? hidden_gradient.cuda()
                                          : hidden_gradient.cpu(),
            .table_gradient = !gradients ? TensorView()
                              : cuda     ? table_gradient.cuda()
                                         : table_gradient.cpu()};
  }
  double loss_sum() {
    double sum = 0;
    cuda_device().copy_to_host(&sum, sum_buffer.data(), 8);
    return sum;
  }
};

/// Everything worked out in float64, with the error that the device may make.
struct Reference {
  std::vector<float> losses, hidden_gradient, table_gradient;
  std::vector<double> loss_tolerance, hidden_tolerance, table_tolerance;

  /// `logits_type`: what logits (and their gradients) are rounded to.
  Reference(Case& c, DType logits_type) {
    const auto [rows, width, vocab] = c.shape;
    const double unit = unit_roundoff(logits_type);
    // Float16 has no numbers nearer to each other than 2^-24: gradients of unlikely tokens lose up to half of that.
    const double step = logits_type == DType::f16 ? 0x1p-25 : 0;
    std::vector<double> table_sum, table_error;
    for (int64_t v = 0; v < vocab; ++v)
      for (int64_t i = 0; i < width; ++i) table_sum.push_back(static_cast<double>(c.table_gradient.at(v, i)));
    table_error.resize(table_sum.size());
    std::vector<double> logits(static_cast<size_t>(vocab));
    for (int64_t r = 0; r < rows; ++r) {
      const int32_t target = c.targets[static_cast<size_t>(r)];
      double high = -INFINITY, magnitude = 0;
      for (int64_t v = 0; v < vocab; ++v) {
        double logit = 0, terms = 0;
        for (int64_t i = 0; i < width; ++i) {
          const double term = static_cast<double>(c.hidden.at(r, i)) * static_cast<double>(c.table.at(v, i));
          logit += term;
          terms += std::abs(term);
        }
        logits[static_cast<size_t>(v)] = logit;
        high = std::max(high, logit);
        magnitude = std::max(magnitude, unit * std::abs(logit) + 0x1p-24 * static_cast<double>(width) * terms);
      }
      double sum = 0;
      for (const double logit : logits) sum += std::exp(logit - high);
      // exp, its argument and the sum in float32: a thread adds up to 120 numbers, then 10 levels.
      const double exponential = 0x1p-24 * 160;
      const double error = 2 * magnitude + exponential;
      if (target == -100) {
        losses.push_back(0);
        loss_tolerance.push_back(0x1p-60);
      } else {
        const double loss = std::log(sum) + high - logits[static_cast<size_t>(target)];
        losses.push_back(static_cast<float>(loss));
        loss_tolerance.push_back(error + 0x1p-23 * (std::abs(loss) + std::abs(high)));
      }
      std::vector<double> gradient(static_cast<size_t>(width)), gradient_error(gradient.size());
      for (int64_t v = 0; v < vocab && target != -100; ++v) {
        const double p = std::exp(logits[static_cast<size_t>(v)] - high) / sum;
        const double dlogit = static_cast<double>(Case::kScale) * (p - (v == target ? 1 : 0));
        const double dlogit_error =
            static_cast<double>(Case::kScale) * p * 2 * error + unit * std::abs(dlogit) + step + 0x1p-24;
        for (int64_t i = 0; i < width; ++i) {
          const auto at = static_cast<size_t>(v * width + i);
          const double w = static_cast<double>(c.table.at(v, i)), h = static_cast<double>(c.hidden.at(r, i));
          gradient[static_cast<size_t>(i)] += dlogit * w;
          gradient_error[static_cast<size_t>(i)] += dlogit_error * std::abs(w) + 0x1p-22 * std::abs(dlogit * w);
          table_sum[at] += dlogit * h;
          table_error[at] += dlogit_error * std::abs(h) + 0x1p-22;
        }
      }
      for (int64_t i = 0; i < width; ++i) {
        hidden_gradient.push_back(static_cast<float>(gradient[static_cast<size_t>(i)]));
        hidden_tolerance.push_back(gradient_error[static_cast<size_t>(i)] + step +
                                   1.01 * unit_roundoff(c.dtype) * std::abs(gradient[static_cast<size_t>(i)]));
      }
    }
    for (size_t i = 0; i < table_sum.size(); ++i) {
      table_gradient.push_back(static_cast<float>(table_sum[i]));
      table_tolerance.push_back(table_error[i] + 0x1p-23 * std::abs(table_sum[i]) + 0x1p-24);
    }
  }
};

void check_case(const Shape& shape, DType dtype) {
  CAPTURE(dtype_name(dtype));
  CAPTURE(shape.rows);
  CAPTURE(shape.vocab);
  Case c(shape, dtype);
  const Reference want(c, dtype);
  cuda_device().model_operators().output_loss(c.arguments(true, true));
  const std::vector<float> losses = c.losses.from_cuda(), dh = c.hidden_gradient.from_cuda(),
                           dt = c.table_gradient.from_cuda();
  CHECK(error_in_tolerances(losses, want.losses, want.loss_tolerance) <= 1);
  CHECK(error_in_tolerances(dh, want.hidden_gradient, want.hidden_tolerance) <= 1);
  CHECK(error_in_tolerances(dt, want.table_gradient, want.table_tolerance) <= 1);
  double sum = 0.5;
  for (const float loss : losses) sum += static_cast<double>(loss);
  CHECK(std::abs(c.loss_sum() - sum) <= 1e-15 * static_cast<double>(shape.rows) * std::abs(sum));
  // The same bits again.
  c.table_gradient.upload();
  cuda_device().model_operators().output_loss(c.arguments(true, true));
  CHECK(c.losses.from_cuda() == losses);
  CHECK(c.hidden_gradient.from_cuda() == dh);
  CHECK(c.table_gradient.from_cuda() == dt);
  // Losses alone: logits stay in float32.
  const Reference alone(c, DType::f32);
  cuda_device().model_operators().output_loss(c.arguments(true, false));
  CHECK(error_in_tolerances(c.losses.from_cuda(), alone.losses, alone.loss_tolerance) <= 1);
  if (dtype != DType::f32) return;
  cpu_device().model_operators().output_loss(c.arguments(false, true));
  CHECK(error_in_tolerances(losses, c.losses.from_cpu(), want.loss_tolerance) <= 2);
  CHECK(error_in_tolerances(dh, c.hidden_gradient.from_cpu(), want.hidden_tolerance) <= 2);
  CHECK(error_in_tolerances(dt, c.table_gradient.from_cpu(), want.table_tolerance) <= 2);
}

TEST_CASE("output loss: losses and gradients for any vocabulary, ignored targets, and again the same bits") {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
    for (const Shape& shape : {Shape{1, 8, 1}, {3, 8, 7}, {11, 24, 100}, {6, 40, 1001}, {9, 8, 8195}})
      check_case(shape, dtype);
}

TEST_CASE("output loss: OPT's vocabulary, and one that no block can hold in shared memory") {
  check_case({3, 8, 50272}, DType::bf16);
  check_case({2, 8, 120011}, DType::f16);
  check_case({2, 8, 50272}, DType::f32);
}

TEST_CASE("output loss: more rows than a chunk of logits has") {
  check_case({1029, 8, 19}, DType::f32);
  check_case({2051, 8, 19}, DType::bf16);
}

TEST_CASE("output loss: a table narrower than float32 hidden states, losses alone") {
  for (const DType table_type : {DType::bf16, DType::f16}) {
    Case c({11, 24, 101}, DType::f32, table_type);
    const Reference want(c, DType::f32);
    cuda_device().model_operators().output_loss(c.arguments(true, false));
    CHECK(error_in_tolerances(c.losses.from_cuda(), want.losses, want.loss_tolerance) <= 1);
  }
}

TEST_CASE("output loss: a hidden state that is not a number shows in its loss alone") {
  Case c({4, 8, 333}, DType::bf16);
  c.hidden.at(2, 3) = NAN;
  c.hidden.upload();
  cuda_device().model_operators().output_loss(c.arguments(true, true));
  const std::vector<float> losses = c.losses.from_cuda();
  for (size_t r = 0; r < 4; ++r) CHECK(std::isnan(losses[r]) == (r == 2));
  CHECK(std::isnan(c.loss_sum()));
}

}  // namespace
}  // namespace cbtm
