#include "attention.h"

#include "attention_kernels.h"
#include "attention_params.h"
#include "cbtm/base/error.h"

namespace cbtm::cuda {
namespace {

/// Takes operands over into the parameters of a kernel, and finds out whether all of them lie at multiples of 16 bytes.
class Operands {
 public:
  Operands(const AttentionShape& shape, DType dtype) : shape_(shape), dtype_(dtype) {}

  AttentionOperand operator()(ConstTensorView view) {
    CBTM_ASSERT(view.dtype == dtype_, "all operands have one dtype");
    CBTM_ASSERT(view.columns == shape_.num_heads * shape_.head_dim, "an operand has the columns of all heads");
    aligned_ = aligned_ && rows_aligned(view, shape_.head_dim);
    return operand_of(view);
  }
  bool aligned() const { return aligned_; }

 private:
  const AttentionShape& shape_;
  DType dtype_;
  bool aligned_ = true;
};

}  // namespace

void attention_forward(Context& context, const AttentionForward& arguments) {
  const AttentionShape& shape = arguments.shape;
  const DType dtype = arguments.query.dtype;
  require_attention_dtype(context, dtype);
  require_attention_head_dim(shape.head_dim);
  Operands operand(shape, dtype);
  AttentionParams params = attention_params(shape);
  params.query = operand(arguments.query);
  params.key = operand(arguments.key);
  params.value = operand(arguments.value);
  params.output = operand(arguments.output);
  params.vectorised = operand.aligned();
  params.log_sum_exp = arguments.log_sum_exp ? arguments.log_sum_exp.as<float>() : nullptr;
  params.log_sum_exp_stride = arguments.log_sum_exp.row_stride;
  const auto tiles = attention_query_tiles(shape, kGeneralTile);
  if (tiles.empty()) return;
  params.query_tiles = upload_tiles(context, tiles);
  launch_attention_forward_general(context, dtype, params, static_cast<int64_t>(tiles.size()));
}

int64_t attention_backward_workspace_bytes(int64_t query_rows, int64_t num_heads) {
  return 2 * query_rows * num_heads * 4;
}

void attention_backward(Context& context, const AttentionBackward& arguments) {
  const AttentionShape& shape = arguments.shape;
  const DType dtype = arguments.query.dtype;
  require_attention_dtype(context, dtype);
  require_attention_head_dim(shape.head_dim);
  Operands operand(shape, dtype);
  AttentionParams params = attention_params(shape);
  params.query = operand(arguments.query);
  params.key = operand(arguments.key);
  params.value = operand(arguments.value);
  params.output = operand(arguments.output);
  params.output_gradient = operand(arguments.output_gradient);
  params.query_gradient = operand(arguments.query_gradient);
  params.key_gradient = operand(arguments.key_gradient);
  params.value_gradient = operand(arguments.value_gradient);
  params.vectorised = operand.aligned();
  params.log_sum_exp = const_cast<float*>(arguments.log_sum_exp.as<float>());  // only read
  params.log_sum_exp_stride = arguments.log_sum_exp.row_stride;
  params.query_rows = shape.query_offsets.empty() ? 0 : shape.query_offsets.back();
  if (params.query_rows > 0) {
    auto* const log_sum_exp =
        static_cast<float*>(context.workspace(attention_backward_workspace_bytes(params.query_rows, shape.num_heads)));
    float* const row_term = log_sum_exp + params.query_rows * shape.num_heads;
    launch_attention_row_terms(context, dtype, params, log_sum_exp, row_term);
    params.row_log_sum_exp = log_sum_exp;
    params.row_term = row_term;
  }
  const auto query_tiles = attention_query_tiles(shape, kGeneralTile);
  const auto key_tiles = attention_key_tiles(shape, kGeneralTile);
  if (!query_tiles.empty()) params.query_tiles = upload_tiles(context, query_tiles);
  if (!key_tiles.empty()) params.key_tiles = upload_tiles(context, key_tiles);
  launch_attention_backward_general(context, dtype, params, static_cast<int64_t>(query_tiles.size()),
                                    static_cast<int64_t>(key_tiles.size()));
}

}  // namespace cbtm::cuda
