#include <algorithm>

#include "attention/attention_cached.h"
#include "attention/attention_kernels.h"
#include "attention/attention_split.h"
#include "cbtm/base/error.h"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

constexpr int kThreads = 128;

/// A new token: row `row` of the new keys and values is token `token` of sequence `sequence`. None if `taken` is 0.
struct alignas(16) NewToken {
  int32_t row;
  int32_t sequence;
  int32_t token;
  int32_t taken;
};

struct AppendParams {
  const NewToken* tokens;
  const int32_t* block_table;
  int64_t block_table_stride;
  int page_size;
  const char *key, *value;  ///< rows of *_stride bytes
  char *cached_keys, *cached_values;
  int64_t key_stride, value_stride, cached_key_stride, cached_value_stride;
  int row_bytes;
};

// Copies the new keys and values into the pages of their sequences.
//
// grid      one block per new token and operand (y = 0: keys, 1: values). A lane copies kVector bytes, next to those
//           of its neighbours.
// bytes     2 * 2 * rows * heads * head_dim * element size, plus a page number a row.
template <typename Vector>
__global__ void __launch_bounds__(kThreads) attention_append(const AppendParams params) {
  const NewToken token = params.tokens[blockIdx.x];
  if (token.taken == 0) return;
  const int page = params.block_table[token.sequence * params.block_table_stride + token.token / params.page_size];
  const int64_t cached_row = static_cast<int64_t>(page) * params.page_size + token.token % params.page_size;
  const bool values = blockIdx.y != 0;
  const char* source =
      values ? params.value + token.row * params.value_stride : params.key + token.row * params.key_stride;
  char* destination = values ? params.cached_values + cached_row * params.cached_value_stride
                             : params.cached_keys + cached_row * params.cached_key_stride;
  for (int i = static_cast<int>(threadIdx.x); i < params.row_bytes / static_cast<int>(sizeof(Vector)); i += kThreads)
    reinterpret_cast<Vector*>(destination)[i] = reinterpret_cast<const Vector*>(source)[i];
}

/// New tokens of the sequences for which decoding does not write into the cache itself.
std::vector<NewToken> new_tokens(const PassSequences& pass, RowSums row_sums) {
  std::vector<NewToken> tokens;
  for (size_t s = 0; s < pass.cached_lengths.size(); ++s) {
    const int32_t begin = pass.query_offsets[s];
    const int32_t count = pass.query_offsets[s + 1] - begin;
    if (decoding_appends(row_sums, count)) continue;
    for (int32_t i = 0; i < count; ++i)
      tokens.push_back({begin + i, static_cast<int32_t>(s), pass.cached_lengths[s] - count + i, 1});
  }
  return tokens;
}

/// Tiles of the queries that are not decoded.
std::vector<AttentionQueryTile> cached_query_tiles(const PassSequences& pass, RowSums row_sums, int tile) {
  std::vector<AttentionQueryTile> tiles;
  for (size_t s = 0; s < pass.cached_lengths.size(); ++s) {
    const int32_t begin = pass.query_offsets[s];
    const int32_t count = pass.query_offsets[s + 1] - begin;
    if (is_decoded(row_sums, count)) continue;
    for (int32_t first = 0; first < count; first += tile)
      tiles.push_back({.query_row = begin + first,
                       .query_count = std::min(tile, count - first),
                       .key_row = static_cast<int32_t>(s),
                       .first_visible = pass.cached_lengths[s] - count + first + 1});
  }
  return tiles;
}

void append(Context& context, const AttentionCached& a, SequenceTables& tables, bool vectorised) {
  const RowSums row_sums = a.row_sums;
  const auto tokens =
      tables.get<NewToken>(table_key(AttentionTable::new_tokens, static_cast<int64_t>(row_sums)),
                           [row_sums](const PassSequences& pass) { return new_tokens(pass, row_sums); });
  if (tokens.room == 0) return;
  const int64_t element = dtype_bytes(a.key.dtype);
  const AppendParams params{.tokens = tokens.rows,
                            .block_table = a.cache.block_table.as<int32_t>(),
                            .block_table_stride = a.cache.block_table.row_stride,
                            .page_size = static_cast<int>(a.cache.page_size),
                            .key = static_cast<const char*>(a.key.data),
                            .value = static_cast<const char*>(a.value.data),
                            .cached_keys = static_cast<char*>(a.cache.keys.data),
                            .cached_values = static_cast<char*>(a.cache.values.data),
                            .key_stride = a.key.row_stride * element,
                            .value_stride = a.value.row_stride * element,
                            .cached_key_stride = a.cache.keys.row_stride * element,
                            .cached_value_stride = a.cache.values.row_stride * element,
                            .row_bytes = static_cast<int>(a.key.columns * element)};
  const dim3 grid(static_cast<unsigned>(tokens.room), 2);
  if (vectorised)
    attention_append<uint4><<<grid, kThreads, 0, context.stream>>>(params);
  else
    attention_append<uint16_t><<<grid, kThreads, 0, context.stream>>>(params);
  CBTM_CUDA_LAUNCHED("attention_append");
}

}  // namespace

void attention_cached(Context& context, const AttentionCached& arguments) {
  const AttentionShape& shape = arguments.shape;
  const KeyValueCache& cache = arguments.cache;
  const DType dtype = arguments.query.dtype;
  require_attention_dtype(context, dtype);
  require_attention_head_dim(shape.head_dim);
  CBTM_ASSERT(!shape.dropout.active(), "a cache is read in inference only");
  CBTM_ASSERT(cache.page_size > 0, "pages hold tokens");
  AttentionParams params = attention_params(shape);
  params.vectorised = true;
  for (const ConstTensorView& view : {arguments.query, arguments.key, arguments.value, ConstTensorView(cache.keys),
                                      ConstTensorView(cache.values), ConstTensorView(arguments.output)}) {
    CBTM_ASSERT(view.dtype == dtype, "all operands and the cache have one dtype");
    params.vectorised = params.vectorised && rows_aligned(view, shape.head_dim);
  }
  const PassSequences pass{
      .query_offsets = shape.query_offsets, .key_offsets = {}, .cached_lengths = arguments.cached_lengths};
  SequenceTables& tables = context.sequence_tables(pass);
  append(context, arguments, tables, params.vectorised);

  params.query = operand_of(arguments.query);
  params.key = operand_of(cache.keys);
  params.value = operand_of(cache.values);
  params.output = operand_of(arguments.output);
  params.block_table = cache.block_table.as<int32_t>();
  params.block_table_stride = cache.block_table.row_stride;
  params.page_size = static_cast<int32_t>(cache.page_size);

  const RowSums row_sums = arguments.row_sums;
  attention_split(context, dtype, params, operand_of(arguments.key), operand_of(arguments.value), tables, pass,
                  row_sums);
  run_attention_forward(context, dtype, params, [&](int tile) {
    return tables.get<AttentionQueryTile>(
        table_key(AttentionTable::cached_query_tiles, static_cast<int64_t>(row_sums), tile),
        [row_sums, tile](const PassSequences& made_of) { return cached_query_tiles(made_of, row_sums, tile); });
  });
}

}  // namespace cbtm::cuda
