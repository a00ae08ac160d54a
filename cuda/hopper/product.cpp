#include "hopper/product.h"

#include "dispatch.h"
#include "hopper/available.h"
#include "hopper/product_params.h"
#include "hopper/tensor_map.h"

namespace cbtm::cuda::hopper {
namespace {

ProductKind kind_of(const MatmulArguments& m) {
  if (m.transpose_a) return ProductKind::weight_gradient;
  if (!m.transpose_b) return ProductKind::input_gradient;
  return m.c.dtype == DType::f32 ? ProductKind::forward_float : ProductKind::forward;
}

bool has_wide_result(ProductKind kind) {
  return kind == ProductKind::forward_float || kind == ProductKind::weight_gradient;
}

bool epilogue_fits(ProductKind kind, const MatmulArguments& m) {
  if (has_wide_result(kind)) {
    if (m.bias || m.relu || m.relu_mask || m.relu_derivative_mask) return false;
    return !m.a_sums || kind == ProductKind::weight_gradient;
  }
  return !m.a_sums && rows_aligned(m.bias, 4) && rows_aligned(m.relu_mask, 4);
}

#ifdef CBTM_HAS_SM_90A
CUtensorMap map_of(ConstTensorView matrix, bool k_is_contiguous) {
  return make_tensor_map(matrix, k_is_contiguous ? kProductBlockRows : kProductDepth, kProductDepth);
}

ProductParams params_of(const MatmulArguments& m) {
  ProductParams params{};
  params.a = map_of(m.a, !m.transpose_a);
  params.b = map_of(m.b, m.transpose_b);
  params.m = static_cast<int>(m.c.rows);
  params.n = static_cast<int>(m.c.columns);
  params.k = static_cast<int>(m.transpose_a ? m.a.rows : m.a.columns);
  params.c = m.c.data;
  params.c_stride = m.c.row_stride;
  params.alpha = m.alpha;
  params.beta = m.beta;
  params.bias = m.bias.data;
  params.relu = m.relu;
  params.mask = static_cast<uint8_t*>(m.relu_mask.data);
  params.mask_stride = m.relu_mask.row_stride;
  params.derivative_mask = static_cast<const uint8_t*>(m.relu_derivative_mask.data);
  params.derivative_mask_stride = m.relu_derivative_mask.row_stride;
  params.a_sums = static_cast<float*>(m.a_sums.data);
  return params;
}
#endif

}  // namespace

bool product_applies(const Context& context, const MatmulArguments& m) {
  if (!is_available(context) || m.batch_count != 1) return false;
  if (m.a.dtype != DType::bf16 && m.a.dtype != DType::f16) return false;
  if (m.transpose_a && m.transpose_b) return false;
  const ProductKind kind = kind_of(m);
  if ((m.c.dtype == DType::f32) != has_wide_result(kind) || !epilogue_fits(kind, m)) return false;
  constexpr int64_t kSizeMax = (int64_t{1} << 31) - 4096;  // counted in int, tiles beyond the edge too
  for (const ConstTensorView& operand : {m.a, m.b, ConstTensorView(m.c)})
    if (!has_tensor_map(operand) || operand.rows > kSizeMax || operand.columns > kSizeMax) return false;
  return true;
}

void product(Context& context, const MatmulArguments& arguments) {
  CBTM_ASSERT(product_applies(context, arguments), "the kernel takes what it was asked about");
#ifdef CBTM_HAS_SM_90A
  const auto launch = arguments.a.dtype == DType::f16 ? launch_product_f16 : launch_product_bf16;
  launch(kind_of(arguments), params_of(arguments), context.sm_count, context.stream);
#endif
}

}  // namespace cbtm::cuda::hopper
