#include "attention/attention.h"

#include "attention/attention_hopper.h"
#include "attention/attention_kernels.h"
#include "attention/attention_mma_tiles.h"
#include "attention/attention_params.h"
#include "cbtm/base/ceil_divide.h"
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

bool on_tensor_cores(DType dtype, const AttentionParams& params) { return dtype != DType::f32 && params.vectorised; }

AttentionParams backward_params(const AttentionBackward& arguments) {
  const AttentionShape& shape = arguments.shape;
  Operands operand(shape, arguments.query.dtype);
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
  return params;
}

SequenceTable<AttentionQueryTile> query_tiles(SequenceTables& tables, int tile) {
  return tables.get<AttentionQueryTile>(
      table_key(AttentionTable::query_tiles, tile),
      [tile](const PassSequences& sequences) { return attention_query_tiles(sequences, tile); });
}

/// Of the workspace of the backward pass: what the Hopper kernels take; two numbers a row and head come after it.
int64_t sums_bytes(const Context& context, const AttentionBackward& arguments, const AttentionParams& params) {
  const bool taken = runs_on_hopper(context, arguments.query.dtype, params);
  return taken ? round_up(attention_sums_bytes(arguments.shape), 16) : 0;
}

}  // namespace

void run_attention_forward(Context& context, DType dtype, AttentionParams params, const AttentionTilesOf& tiles_of) {
  if (runs_on_hopper(context, dtype, params)) return run_attention_forward_hopper(context, dtype, params, tiles_of);
  const auto run = [&](int tile, auto launch) {
    const SequenceTable<AttentionQueryTile> tiles = tiles_of(tile);
    if (tiles.room == 0) return;
    params.query_tiles = tiles.rows;
    launch(context, dtype, params, tiles.room);
  };
  bool done = false;
  if (on_tensor_cores(dtype, params))
    dispatch_attention_mma(params.head_dim, [&]<int kHeadDim>() {
      using Tiles = AttentionMmaTiles<kHeadDim>;
      if (Tiles::kForwardShared > context.shared_bytes_per_block_max) return;
      run(Tiles::kForwardQueries, launch_attention_forward_mma<kHeadDim>);
      done = true;
    });
  if (!done) run(kGeneralTile, launch_attention_forward_general);
}

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
  SequenceTables& tables = sequence_tables(context, shape);
  run_attention_forward(context, dtype, params, [&](int tile) { return query_tiles(tables, tile); });
}

int64_t scratch_bytes(const Context& context, const AttentionBackward& arguments) {
  const AttentionParams params = backward_params(arguments);
  return sums_bytes(context, arguments, params) + 2 * params.query_rows * params.num_heads * 4;
}

void attention_backward(Context& context, const AttentionBackward& arguments) {
  const AttentionShape& shape = arguments.shape;
  const DType dtype = arguments.query.dtype;
  require_attention_dtype(context, dtype);
  require_attention_head_dim(shape.head_dim);
  AttentionParams params = backward_params(arguments);
  void* workspace = nullptr;
  if (const int64_t bytes = scratch_bytes(context, arguments); bytes > 0) workspace = context.workspace(bytes);
  if (params.query_rows > 0) {
    auto* const log_sum_exp =
        reinterpret_cast<float*>(static_cast<char*>(workspace) + sums_bytes(context, arguments, params));
    float* const row_term = log_sum_exp + params.query_rows * shape.num_heads;
    launch_attention_row_terms(context, dtype, params, log_sum_exp, row_term);
    params.row_log_sum_exp = log_sum_exp;
    params.row_term = row_term;
  }
  if (runs_on_hopper(context, dtype, params))
    return run_attention_backward_hopper(context, dtype, params, shape, workspace);
  SequenceTables& tables = sequence_tables(context, shape);
  const auto run = [&](int tile, auto launch) {
    const SequenceTable<AttentionQueryTile> queries = query_tiles(tables, tile);
    const auto keys = tables.get<AttentionKeyTile>(
        table_key(AttentionTable::key_tiles, tile),
        [tile](const PassSequences& sequences) { return attention_key_tiles(sequences, tile); });
    params.query_tiles = queries.rows;
    params.key_tiles = keys.rows;
    launch(context, dtype, params, queries.room, keys.room);
  };
  bool done = false;
  if (on_tensor_cores(dtype, params))
    dispatch_attention_mma(shape.head_dim, [&]<int kHeadDim>() {
      using Tiles = AttentionMmaTiles<kHeadDim>;
      if (Tiles::kKeysShared > context.shared_bytes_per_block_max) return;
      run(Tiles::kBackwardRows, launch_attention_backward_mma<kHeadDim>);
      done = true;
    });
  if (!done) run(kGeneralTile, launch_attention_backward_general);
}

}  // namespace cbtm::cuda
