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
  params.parts = 1;
  params.steps_per_part = static_cast<int>(ceil_divide(params.k, kProductDepth));
  return params;
}

/// Makes `params` write parts into the scratch memory; what adds them then.
ProductParts cut(ProductParams& params, int parts, void* scratch) {
  const int64_t stride = round_up(params.n, 4);
  ProductParts sums{};
  sums.values = static_cast<float*>(scratch);
  if (params.a_sums != nullptr) sums.sums = sums.values + parts * params.m * stride;
  sums.parts = parts;
  sums.m = params.m;
  sums.n = params.n;
  sums.stride = stride;
  sums.c = static_cast<float*>(params.c);
  sums.c_stride = params.c_stride;
  sums.a_sums = params.a_sums;
  sums.alpha = params.alpha;
  sums.beta = params.beta;

  params.c = scratch;
  params.c_stride = stride;
  params.c_part_stride = params.m * stride;
  params.a_sums = const_cast<float*>(sums.sums);
  params.sums_part_stride = params.m;
  params.steps_per_part = static_cast<int>(ceil_divide(params.steps_per_part, parts));
  params.parts = parts;
  params.alpha = 1;
  params.beta = 0;
  return sums;
}
#endif

}  // namespace

bool product_applies(const Context& context, const MatmulArguments& m) {
  if (!is_available(context) || context.sm_count < kProductCluster || m.batch_count != 1) return false;
  if (m.a.dtype != DType::bf16 && m.a.dtype != DType::f16) return false;
  if (m.transpose_a && m.transpose_b) return false;
  const ProductKind kind = kind_of(m);
  if ((m.c.dtype == DType::f32) != has_wide_result(kind) || !epilogue_fits(kind, m)) return false;
  constexpr int64_t kSizeMax = int64_t{1} << 30;  // counted in int, tiles beyond the edge too
  for (const ConstTensorView& operand : {m.a, m.b, ConstTensorView(m.c)})
    if (!has_tensor_map(operand) || operand.rows > kSizeMax || operand.columns > kSizeMax) return false;
  return true;
}

// By a model in cycles of a multiprocessor: a stage takes 1024 of its tensor cores, and a part's c is written and read
// at 2 KiB per cycle of the whole GPU, by a launch more. On equal terms the fewest parts.
int product_parts(const Context& context, const MatmulArguments& m) {
  if (kind_of(m) != ProductKind::weight_gradient) return 1;
  constexpr int kPartsMax = 16, kStepsMin = 8;
  constexpr int64_t kStepCycles = 1024, kBytesPerCycle = 2048, kLaunchCycles = 6000;
  const int64_t tiles = product_tiles(m.c.rows, m.c.columns), clusters = context.sm_count / kProductCluster;
  const int64_t steps = ceil_divide(m.a.rows, kProductDepth);
  const int64_t part_bytes = (m.c.rows * round_up(m.c.columns, 4) + m.c.rows) * 4;
  int best = 1;
  int64_t least = ceil_divide(tiles, clusters) * steps * kStepCycles;
  for (int parts = 2; parts <= kPartsMax; ++parts) {
    const int64_t part_steps = ceil_divide(steps, parts);
    if (part_steps < kStepsMin || parts * part_bytes > MatmulPlans::kWorkspaceBytes) break;
    if ((parts - 1) * part_steps >= steps) continue;  // the last part would be empty
    const int64_t cycles = ceil_divide(tiles * parts, clusters) * part_steps * kStepCycles +
                           2 * parts * part_bytes / kBytesPerCycle + kLaunchCycles;
    if (cycles >= least) continue;
    least = cycles;
    best = parts;
  }
  return best;
}

void product(Context& context, const MatmulArguments& arguments, void* scratch) {
  CBTM_ASSERT(product_applies(context, arguments), "the kernel takes what it was asked about");
#ifdef CBTM_HAS_SM_90A
  const auto launch = arguments.a.dtype == DType::f16 ? launch_product_f16 : launch_product_bf16;
  const ProductKind kind = kind_of(arguments);
  ProductParams params = params_of(arguments);
  const int parts = product_parts(context, arguments);
  if (parts == 1) return launch(kind, params, context.sm_count, context.stream);
  const ProductParts sums = cut(params, parts, scratch);
  launch(kind, params, context.sm_count, context.stream);
  add_product_parts(sums, context.sm_count, context.stream);
#else
  static_cast<void>(scratch);
#endif
}

}  // namespace cbtm::cuda::hopper
