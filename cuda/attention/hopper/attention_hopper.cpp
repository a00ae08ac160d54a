#include "attention/attention_hopper.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/error.h"
#include "hopper/available.h"

namespace cbtm::cuda {
namespace {

/// Places for tiles of queries.
int64_t query_tile_room(const AttentionShape& shape, int queries) {
  int64_t tiles = 0;
  for (size_t s = 0; s + 1 < shape.query_offsets.size(); ++s)
    tiles += ceil_divide(shape.query_offsets[s + 1] - shape.query_offsets[s], queries);
  return table_room(tiles);
}

/// What CBTM_ATTENTION says; looked at once.
bool hopper_is_wanted() {
  static const bool wanted = [] {
    const char* asked = std::getenv("CBTM_ATTENTION");
    if (asked == nullptr || *asked == 0) return true;
    if (std::string_view(asked) != "mma") throw Error(fmt::format("CBTM_ATTENTION={}: mma can be asked for", asked));
    return false;
  }();
  return wanted;
}

}  // namespace

bool runs_on_hopper(const Context& context, DType dtype, const AttentionParams& params) {
  return hopper::is_available(context) && hopper_is_wanted() && (dtype == DType::bf16 || dtype == DType::f16) &&
         params.vectorised && params.block_table == nullptr && dispatch_attention_hopper(params.head_dim, []<int>() {});
}

int64_t attention_sums_bytes(const AttentionShape& shape) {
  int64_t bytes = 0;
  dispatch_attention_hopper(shape.head_dim, [&]<int kHeadDim>() {
    constexpr int kQueries = AttentionHopperTiles<kHeadDim>::kBackwardQueries;
    const int64_t tiles = query_tile_room(shape, kQueries) * shape.num_heads;
    bytes = tiles * kQueries * kHeadDim * 4 + (tiles + 1) * 4;
  });
  return bytes;
}

AttentionBackwardTiles attention_backward_tiles(const PassSequences& pass, int queries, int keys) {
  AttentionBackwardTiles tiles;
  for (size_t s = 0; s + 1 < pass.query_offsets.size(); ++s) {
    const int32_t begin = pass.query_offsets[s], query_count = pass.query_offsets[s + 1] - begin;
    const int32_t key_begin = pass.key_offsets[s], key_count = pass.key_offsets[s + 1] - key_begin;
    const int32_t hidden_before = key_count - query_count;
    const auto first_tile = static_cast<int32_t>(tiles.queries.size());
    for (int32_t first = 0; first < query_count; first += queries)
      tiles.queries.push_back({.query_row = begin + first,
                               .query_count = std::min(queries, query_count - first),
                               .key_row = key_begin,
                               .first_visible = hidden_before + first + 1});
    for (int32_t first = 0; first < key_count; first += keys) {
      const int32_t first_query = std::min(query_count, std::max(0, first - hidden_before));
      const int32_t first_of_tile = first_query / queries * queries;
      tiles.keys.push_back({.key_row = key_begin + first,
                            .key_count = std::min(keys, key_count - first),
                            .query_row = begin + first_of_tile,
                            .query_count = first_query == query_count ? 0 : query_count - first_of_tile,
                            .seen_before = hidden_before + first_of_tile - first,
                            .query_tile = first_tile + first_of_tile / queries,
                            .key_first = first,
                            .unused = 0});
    }
  }
  // Of a sequence, earlier keys stay before later ones.
  std::stable_sort(tiles.keys.begin(), tiles.keys.end(),
                   [](const auto& a, const auto& b) { return a.query_count > b.query_count; });
  return tiles;
}

void run_attention_forward_hopper(Context& context, DType dtype, const AttentionParams& params,
                                  const std::function<SequenceTable<AttentionQueryTile>(int tile)>& tiles_of) {
  CBTM_ASSERT(runs_on_hopper(context, dtype, params), "the kernels are for Hopper");
#ifdef CBTM_HAS_SM_90A
  dispatch_attention_hopper(params.head_dim, [&]<int kHeadDim>() {
    const auto tiles = tiles_of(AttentionHopperTiles<kHeadDim>::kForwardQueries);
    if (tiles.room > 0) launch_attention_forward_hopper<kHeadDim>(context, dtype, params, tiles);
  });
#endif
}

void run_attention_backward_hopper(Context& context, DType dtype, const AttentionParams& params,
                                   const AttentionShape& shape, void* memory) {
  CBTM_ASSERT(runs_on_hopper(context, dtype, params), "the kernels are for Hopper");
#ifdef CBTM_HAS_SM_90A
  dispatch_attention_hopper(params.head_dim, [&]<int kHeadDim>() {
    using Tiles = AttentionHopperTiles<kHeadDim>;
    SequenceTables& tables = sequence_tables(context, shape);
    const auto query_tiles = tables.get<AttentionQueryTile>(
        table_key(AttentionTable::hopper_query_tiles, Tiles::kBackwardQueries), [](const PassSequences& pass) {
          return attention_backward_tiles(pass, Tiles::kBackwardQueries, Tiles::kBackwardKeys).queries;
        });
    const auto key_tiles = tables.get<AttentionBackwardTile>(
        table_key(AttentionTable::hopper_key_tiles, Tiles::kBackwardQueries, Tiles::kBackwardKeys),
        [](const PassSequences& pass) {
          return attention_backward_tiles(pass, Tiles::kBackwardQueries, Tiles::kBackwardKeys).keys;
        });
    auto* const sums = static_cast<float*>(memory);
    auto* const ticket =
        reinterpret_cast<uint32_t*>(sums + query_tiles.room * shape.num_heads * Tiles::kBackwardQueries * kHeadDim);
    launch_attention_backward_hopper<kHeadDim>(context, dtype, params,
                                               {.query_gradients = sums, .ticket = ticket, .turns = ticket + 1},
                                               query_tiles, key_tiles);
  });
#else
  static_cast<void>(shape), static_cast<void>(memory);
#endif
}

}  // namespace cbtm::cuda
