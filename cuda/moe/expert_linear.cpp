#include "moe/expert_linear.h"

#include "dispatch.h"
#include "moe/expert_linear_decode.h"
#include "moe/expert_linear_f32.h"
#include "moe/expert_linear_mma.h"

namespace cbtm::cuda {
namespace {

/// Rows per expert up to which reading the weights takes longer than multiplying them.
constexpr int64_t kDecodeRows = 8;

bool few_rows(const ExpertLinearForward& arguments) {
  return arguments.input.rows <= kDecodeRows * arguments.experts();
}

}  // namespace

void expert_linear_forward(Context& context, const ExpertLinearForward& arguments) {
  const auto& a = arguments;
  CBTM_ASSERT(a.weight.rows == a.experts() * a.out() && a.output.rows == a.input.rows, "each expert has a matrix");
  CBTM_ASSERT(a.output.dtype == a.input.dtype, "activations have one type");
  CBTM_ASSERT(
      !a.bias || ((a.bias.dtype == DType::f32 || a.bias.dtype == a.output.dtype) && a.bias.columns == a.weight.rows),
      "each expert has a bias");
  CBTM_ASSERT(a.experts() <= kMaxExperts, "a thread of a block per expert");
  const bool quantised = a.weight.dtype == DType::i8 || a.weight.dtype == DType::u8;
  CBTM_ASSERT(quantised || a.weight.columns == a.input.columns, "a weight for each column");
  if (a.output.size() == 0) return;
  if (a.input.dtype == DType::f32) return expert_forward_f32(context, a);
  CBTM_ASSERT(has_tensor_cores(a.input.dtype, context.compute_capability), "models are computed in types that it has");
  CBTM_ASSERT(quantised || a.weight.dtype == a.input.dtype, "weights are of the input's type, or integers");
  // The choice must not depend on the number of rows where bits must not.
  if (a.row_sums == RowSums::decode || (a.row_sums == RowSums::any && !a.saved && few_rows(a)))
    return expert_forward_decode(context, a);
  if (!quantised) return expert_forward_mma(context, a);
  if (expert_forward_quantised_applies(a)) return expert_forward_quantised(context, a);
  expert_forward_decode(context, a);
}

void expert_linear_backward(Context& context, const ExpertLinearBackward& arguments) {
  const auto& a = arguments;
  CBTM_ASSERT(a.weight.rows == a.experts() * a.out() && a.weight.columns == a.input.columns &&
                  a.output_gradient.rows == a.input.rows && a.experts() <= kMaxExperts,
              "each expert has a matrix");
  CBTM_ASSERT(a.weight.dtype == a.input.dtype && a.output_gradient.dtype == a.input.dtype &&
                  (!a.input_gradient || a.input_gradient.dtype == a.input.dtype),
              "training has one type");
  CBTM_ASSERT(!a.input_gradient || !is_gelu(a.input_activation) || a.input_saved,
              "the derivative of a gelu is taken where it was");
  if (a.input.rows == 0) return;
  if (a.bias_gradient) expert_bias_gradient(context, a);
  if (a.input.dtype == DType::f32) {
    if (a.weight_gradient) expert_weight_gradient_f32(context, a);
    if (a.input_gradient) expert_input_gradient_f32(context, a);
    return;
  }
  CBTM_ASSERT(has_tensor_cores(a.input.dtype, context.compute_capability), "models are computed in types that it has");
  if (a.weight_gradient) expert_weight_gradient_mma(context, a);
  if (a.input_gradient) expert_input_gradient_mma(context, a);
}

}  // namespace cbtm::cuda
