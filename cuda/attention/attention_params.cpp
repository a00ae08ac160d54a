#include "attention/attention_params.h"

#include <algorithm>

#include "cbtm/base/error.h"

namespace cbtm::cuda {
namespace {

struct Sequence {
  int32_t query_begin, queries, key_begin, keys;
};

Sequence sequence_of(const PassSequences& pass, size_t s) {
  return {pass.query_offsets[s], pass.query_offsets[s + 1] - pass.query_offsets[s], pass.key_offsets[s],
          pass.key_offsets[s + 1] - pass.key_offsets[s]};
}

}  // namespace

AttentionParams attention_params(const AttentionShape& shape) {
  CBTM_ASSERT(shape.scale > 0, "the largest score is found before the scale is applied");
  AttentionParams params;
  params.num_heads = static_cast<int32_t>(shape.num_heads);
  params.head_dim = static_cast<int32_t>(shape.head_dim);
  params.scale = shape.scale;
  params.query_rows = shape.query_offsets.empty() ? 0 : shape.query_offsets.back();
  params.key_rows = shape.key_offsets.empty() ? 0 : shape.key_offsets.back();
  if (shape.dropout.active()) {
    CBTM_ASSERT(shape.dropout_columns % 16 == 0, "blocks of 16 keys are decided about together");
    params.dropout = {.seed = shape.dropout.seed,
                      .first_row = shape.dropout.first_row,
                      .key_groups = shape.dropout_columns / 4,
                      .step = shape.dropout.step,
                      .site = shape.dropout.site,
                      .limit = shape.dropout.limit(),
                      .kept_scale = shape.dropout.kept_scale(),
                      .place = shape.dropout.place ? shape.dropout.place.as<int64_t>() : nullptr};
  }
  return params;
}

std::vector<AttentionQueryTile> attention_query_tiles(const PassSequences& sequences, int tile) {
  std::vector<AttentionQueryTile> tiles;
  for (size_t s = 0; s + 1 < sequences.query_offsets.size(); ++s) {
    const Sequence sequence = sequence_of(sequences, s);
    CBTM_ASSERT(sequence.queries == 0 || sequence.keys >= sequence.queries, "every query sees at least itself");
    for (int32_t first = 0; first < sequence.queries; first += tile)
      tiles.push_back({.query_row = sequence.query_begin + first,
                       .query_count = std::min(tile, sequence.queries - first),
                       .key_row = sequence.key_begin,
                       .first_visible = sequence.keys - sequence.queries + first + 1});
  }
  std::stable_sort(tiles.begin(), tiles.end(), [](const AttentionQueryTile& a, const AttentionQueryTile& b) {
    return a.first_visible + a.query_count > b.first_visible + b.query_count;
  });
  return tiles;
}

std::vector<AttentionKeyTile> attention_key_tiles(const PassSequences& sequences, int tile) {
  std::vector<AttentionKeyTile> tiles;
  for (size_t s = 0; s + 1 < sequences.key_offsets.size(); ++s) {
    const Sequence sequence = sequence_of(sequences, s);
    const int32_t hidden_before = sequence.keys - sequence.queries;
    for (int32_t first = 0; first < sequence.keys; first += tile) {
      const int32_t first_query = std::min(sequence.queries, std::max(0, first - hidden_before)) / 16 * 16;
      tiles.push_back({.key_row = sequence.key_begin + first,
                       .key_count = std::min(tile, sequence.keys - first),
                       .key_first = first,
                       .query_row = sequence.query_begin + first_query,
                       .query_count = sequence.queries - first_query,
                       .visible_offset = hidden_before + first_query - first,
                       .unused = {}});
    }
  }
  std::stable_sort(tiles.begin(), tiles.end(),
                   [](const AttentionKeyTile& a, const AttentionKeyTile& b) { return a.query_count > b.query_count; });
  return tiles;
}

void require_attention_dtype(const Context& context, DType dtype) {
  CBTM_ASSERT(dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16, "attention takes floating operands");
  if (dtype == DType::bf16 && context.compute_capability < 80)
    fail("attention: this GPU (compute capability {}.{}) has no bfloat16 tensor cores; use float16 or float32",
         context.compute_capability / 10, context.compute_capability % 10);
}

void require_attention_head_dim(int64_t head_dim) {
  if (head_dim > 256)
    fail("attention: heads of {} columns; the CUDA device takes at most 256, use --device cpu", head_dim);
}

}  // namespace cbtm::cuda
