// Attention over the cache for decoding: one to eight new tokens a sequence, each sequence's cache cut into pieces that
// blocks read at the same time ("flash-decoding").

#include <algorithm>

#include "attention/attention_split.h"
#include "attention/attention_split_pieces.cuh"
#include "cbtm/base/error.h"
#include "dispatch.h"
#include "elements.cuh"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

// sums[c] = Σ_j 2^(s_j - m) v[j][c],  l = Σ_j 2^(s_j - m),  m = max_j s_j,  s_j = log2(e) * scale * q . k[j]  over the
// keys j of a piece that the query sees; where the piece is the whole sequence, output = sums / l.
//
// grid      a block a piece and head, heads fastest. A warp takes a quarter of the keys; kGroup lanes share a key, 16
//           bytes of it each, so a warp reads 32 / kGroup keys at once and kUnroll of those before it needs the first.
//           The rows of the next 32 keys are looked up, one a lane, while the last 32 are worked on.
// bytes     2 * keys * head_dim * element size, once; (head_dim + 2) * 4 written a query and piece.
// registers kRows * kColumns each of the query and of the sums.
// numerics  float32; online softmax a group, then groups, warps and pieces joined by fixed trees.
template <typename Element, int kGroup, int kVectors, int kRows>
__global__ void __launch_bounds__(kThreads, kRows* kVectors <= 2 ? 4 : 2) attention_split_pieces(const Params p) {
  using Layout = Lanes<Element, kGroup, kVectors>;
  constexpr int kLength = Layout::kLength;
  constexpr int kUnroll = kRows <= 2 && kVectors == 1 ? 4 : 2;
  constexpr int kGroups = Layout::kGroups;
  __shared__ __align__(16) float shared_sums[kWarps][kRows][Layout::kRowStride];
  __shared__ SoftmaxState shared_states[kWarps][kRows];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int group = lane / kGroup, member = lane % kGroup;
  const int head = static_cast<int>(blockIdx.x) % p.num_heads;
  const Piece piece = p.pieces[static_cast<int>(blockIdx.x) / p.num_heads];
  if (piece.key_count == 0) return;
  const int column = head * p.head_dim;

  // Keys of this warp.
  const int share = (piece.key_count + kShareGrain * kWarps - 1) / (kShareGrain * kWarps) * kShareGrain;
  const int begin = piece.first_key + min(warp * share, piece.key_count);
  const int end = min(begin + share, piece.first_key + piece.key_count);
  int next_row = begin + lane < end ? cache_row(p, piece.sequence, begin + lane) : 0;

  float query[kRows][kVectors][kLength], sums[kRows][kVectors][kLength] = {};
  SoftmaxState states[kRows];
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    states[row] = {-INFINITY, 0};
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int at = Layout::column_of(member, v);
      const int available = row < piece.query_count ? p.head_dim - at : 0;
      load_packed<Element, kLength>(element_at<Element>(p.query, piece.query_row + row, column + at), available,
                                    p.vectorised)
          .unpack(query[row][v]);
#pragma unroll
      for (int i = 0; i < kLength; ++i) query[row][v][i] *= p.scale;
    }
  }
  append_new<Element>(p, piece, column);
  __syncthreads();  // what this block has just written it also reads

  const int first_visible = piece.length - piece.query_count + 1;  // keys that the first query sees
  for (int chunk = begin; chunk < end; chunk += 32) {
    const int own_row = next_row;
    if (chunk + 32 + lane < end) next_row = cache_row(p, piece.sequence, chunk + 32 + lane);
#pragma unroll 1
    for (int step = 0; step < kGroup; step += kUnroll) {
      if (chunk + step * kGroups >= end) break;
      Packed<Element, kLength> keys[kUnroll][kVectors], values[kUnroll][kVectors];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int place = (step + u) * kGroups + group;
        const int64_t row = __shfl_sync(~0u, own_row, place);
#pragma unroll
        for (int v = 0; v < kVectors; ++v) {
          const int at = Layout::column_of(member, v);
          const int available = chunk + place < end ? p.head_dim - at : 0;
          keys[u][v] =
              load_packed<Element, kLength>(element_at<Element>(p.keys, row, column + at), available, p.vectorised);
          values[u][v] =
              load_packed<Element, kLength>(element_at<Element>(p.values, row, column + at), available, p.vectorised);
        }
      }
      float scores[kRows][kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        float key[kVectors][kLength];
#pragma unroll
        for (int v = 0; v < kVectors; ++v) keys[u][v].unpack(key[v]);
        const int number = chunk + (step + u) * kGroups + group;
#pragma unroll
        for (int row = 0; row < kRows; ++row) {
          float score = 0;
#pragma unroll
          for (int v = 0; v < kVectors; ++v)
#pragma unroll
            for (int i = 0; i < kLength; ++i) score = fmaf(query[row][v][i], key[v][i], score);
#pragma unroll
          for (int lanes = kGroup / 2; lanes > 0; lanes /= 2) score += __shfl_xor_sync(~0u, score, lanes);
          scores[row][u] = number < min(end, first_visible + row) ? score : -INFINITY;
        }
      }
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        float largest = states[row].largest;
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) largest = fmaxf(largest, scores[row][u]);
        const float rescale = weight_of(states[row].largest, largest);
        states[row].largest = largest;
        states[row].sum *= rescale;
#pragma unroll
        for (int v = 0; v < kVectors; ++v)
#pragma unroll
          for (int i = 0; i < kLength; ++i) sums[row][v][i] *= rescale;
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
          scores[row][u] = weight_of(scores[row][u], largest);
          states[row].sum += scores[row][u];
        }
      }
#pragma unroll
      for (int u = 0; u < kUnroll; ++u)
#pragma unroll
        for (int v = 0; v < kVectors; ++v) {
          float value[kLength];
          values[u][v].unpack(value);
#pragma unroll
          for (int row = 0; row < kRows; ++row)
#pragma unroll
            for (int i = 0; i < kLength; ++i) sums[row][v][i] = fmaf(scores[row][u], value[i], sums[row][v][i]);
        }
    }
  }

  // The groups of a warp, then the warps.
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
#pragma unroll
    for (int lanes = kGroup; lanes < 32; lanes *= 2) {
      const SoftmaxState other = {__shfl_xor_sync(~0u, states[row].largest, lanes),
                                  __shfl_xor_sync(~0u, states[row].sum, lanes)};
      const float largest = fmaxf(states[row].largest, other.largest);
      const float own_factor = weight_of(states[row].largest, largest);
      const float other_factor = weight_of(other.largest, largest);
      states[row] = {largest, states[row].sum * own_factor + other.sum * other_factor};
#pragma unroll
      for (int v = 0; v < kVectors; ++v)
#pragma unroll
        for (int i = 0; i < kLength; ++i)
          sums[row][v][i] = sums[row][v][i] * own_factor + __shfl_xor_sync(~0u, sums[row][v][i], lanes) * other_factor;
    }
    if (group == 0) {
#pragma unroll
      for (int v = 0; v < kVectors; ++v)
#pragma unroll
        for (int i = 0; i < kLength; i += 4)
          *reinterpret_cast<float4*>(
              &shared_sums[warp][row][(v * (kLength / 4) + i / 4) * Layout::kQuarterStride + member * 4]) =
              make_float4(sums[row][v][i], sums[row][v][i + 1], sums[row][v][i + 2], sums[row][v][i + 3]);
    }
    if (lane == 0) shared_states[warp][row] = states[row];
  }
  __syncthreads();
  const int width = piece.slot < 0 ? p.head_dim : p.sum_stride;
#pragma unroll 1
  for (int row = 0; row < piece.query_count; ++row) {
    float largest = -INFINITY, total = 0, factors[kWarps];
#pragma unroll
    for (int w = 0; w < kWarps; ++w) largest = fmaxf(largest, shared_states[w][row].largest);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      factors[w] = weight_of(shared_states[w][row].largest, largest);
      total += shared_states[w][row].sum * factors[w];
    }
    const int64_t slot_row = (static_cast<int64_t>(piece.slot) * p.num_heads + head) * p.rows + row;
    for (int c = static_cast<int>(threadIdx.x); c < width; c += kThreads) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum += shared_sums[w][row][Layout::place_of(c)] * factors[w];
      if (piece.slot < 0)
        *const_cast<Element*>(element_at<Element>(p.output, piece.query_row + row, column + c)) =
            narrowed<Element>(sum / total);
      else
        p.sums[slot_row * p.sum_stride + c] = sum;
    }
    if (piece.slot >= 0 && threadIdx.x == 0) p.states[slot_row] = {largest, total};
  }
}

// output[c] = Σ_i sums_i[c] 2^(m_i - m) / Σ_i l_i 2^(m_i - m) over the pieces i, in order; m = max_i m_i.
//
// grid      a warp a query and head, heads fastest; four columns a lane.
// bytes     (head_dim + 2) * 4 read a piece, head_dim * element size written.
template <typename Element>
__global__ void __launch_bounds__(kThreads) attention_join_pieces(const Params p) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int number = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
  if (number >= p.query_count * p.num_heads) return;
  const int head = number % p.num_heads;
  const SplitQuery query = p.queries[number / p.num_heads];
  if (query.pieces == 0) return;
  const auto slot_row = [&](int piece) {
    return (static_cast<int64_t>(query.first_slot + piece) * p.num_heads + head) * p.rows + query.row;
  };
  float largest = -INFINITY;
  for (int piece = lane; piece < query.pieces; piece += 32) largest = fmaxf(largest, p.states[slot_row(piece)].largest);
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, lanes));
  for (int column = lane * 4; column < round_up(p.head_dim, 128); column += 128) {  // once or twice
    float4 sums = {0, 0, 0, 0};
    float total = 0;
    for (int base = 0; base < query.pieces; base += 32) {
      SoftmaxState own = {-INFINITY, 0};
      if (base + lane < query.pieces) own = p.states[slot_row(base + lane)];
      const float factor = weight_of(own.largest, largest);
      const int count = min(32, query.pieces - base);
#pragma unroll 4
      for (int i = 0; i < count; ++i) {
        const float piece_factor = __shfl_sync(~0u, factor, i);
        total = fmaf(__shfl_sync(~0u, own.sum, i), piece_factor, total);
        if (column >= p.head_dim) continue;
        const float4 piece_sums = *reinterpret_cast<const float4*>(p.sums + slot_row(base + i) * p.sum_stride + column);
        sums.x = fmaf(piece_sums.x, piece_factor, sums.x);
        sums.y = fmaf(piece_sums.y, piece_factor, sums.y);
        sums.z = fmaf(piece_sums.z, piece_factor, sums.z);
        sums.w = fmaf(piece_sums.w, piece_factor, sums.w);
      }
    }
    if (column >= p.head_dim) continue;
    const float results[4] = {sums.x / total, sums.y / total, sums.z / total, sums.w / total};
    store_packed<Element, 4>(
        const_cast<Element*>(element_at<Element>(p.output, query.query_row, head * p.head_dim + column)),
        p.head_dim - column, p.vectorised, results);
  }
}

/// Calls launch.operator()<Element, kGroup, kVectors, kRows>() with the fewest lanes a key and queries that suffice.
template <typename Launch>
void dispatch(DType dtype, int head_dim, int rows, const Launch& launch) {
  dispatch_floating(dtype, [&]<typename Element>() {
    if constexpr (sizeof(Element) == 4) {  // for checking: fewer variants
      const auto with_rows = [&]<int kGroup, int kVectors>() {
        if (rows == 1) return launch.template operator()<Element, kGroup, kVectors, 1>();
        launch.template operator()<Element, kGroup, kVectors, 8>();
      };
      if (head_dim <= 64) return with_rows.template operator()<16, 1>();
      if (head_dim <= 128) return with_rows.template operator()<32, 1>();
      with_rows.template operator()<32, 2>();
    } else {
      const auto with_rows = [&]<int kGroup>() {
        if (rows == 1) return launch.template operator()<Element, kGroup, 1, 1>();
        if (rows == 2) return launch.template operator()<Element, kGroup, 1, 2>();
        if (rows <= 4) return launch.template operator()<Element, kGroup, 1, 4>();
        launch.template operator()<Element, kGroup, 1, 8>();
      };
      if (head_dim <= 64) return with_rows.template operator()<8>();
      if (head_dim <= 128) return with_rows.template operator()<16>();
      with_rows.template operator()<32>();
    }
  });
}

}  // namespace

void attention_split(Context& context, DType dtype, const AttentionParams& params, AttentionOperand new_key,
                     AttentionOperand new_value, SequenceTables& tables, const PassSequences& pass, RowSums row_sums) {
  int rows = 0;
  for (const SplitSequence& sequence : decoded_sequences(pass, row_sums)) rows = std::max(rows, sequence.query_count);
  if (rows == 0) return;
  const SplitRule rule{
      .row_sums = row_sums, .queries_max = rows, .num_heads = params.num_heads, .multiprocessors = context.sm_count};
  const auto key_of = [&](AttentionTable table) {
    return table_key(table, static_cast<int64_t>(row_sums), rows, params.num_heads);
  };
  const auto pieces = tables.get<Piece>(key_of(AttentionTable::pieces), [rule](const PassSequences& made_of) {
    return cut_sequences(made_of, rule).pieces;
  });
  const auto queries =
      tables.get<SplitQuery>(key_of(AttentionTable::joined_queries),
                             [rule](const PassSequences& made_of) { return cut_sequences(made_of, rule).queries; });

  Params p{.pieces = pieces.rows,
           .queries = queries.rows,
           .query_count = static_cast<int>(queries.room),
           .block_table = params.block_table,
           .block_table_stride = params.block_table_stride,
           .page_size = params.page_size,
           .query = params.query,
           .new_key = new_key,
           .new_value = new_value,
           .output = params.output,
           .keys = params.key,
           .values = params.value,
           .sums = nullptr,
           .states = nullptr,
           .rows = rows,
           .sum_stride = static_cast<int>(round_up(params.head_dim, 4)),
           .num_heads = params.num_heads,
           .head_dim = params.head_dim,
           .scale = params.scale * kLog2e,
           .vectorised = params.vectorised};
  if (queries.room > 0) {
    const int64_t results = pieces.room * p.num_heads * rows;
    p.sums = static_cast<float*>(context.workspace(results * (p.sum_stride + 2) * 4));
    p.states = reinterpret_cast<SoftmaxState*>(p.sums + results * p.sum_stride);
  }
  dispatch(dtype, p.head_dim, rows, [&]<typename Element, int kGroup, int kVectors, int kRows>() {
    attention_split_pieces<Element, kGroup, kVectors, kRows>
        <<<static_cast<unsigned>(pieces.room * p.num_heads), kThreads, 0, context.stream>>>(p);
  });
  CBTM_CUDA_LAUNCHED("attention_split_pieces");
  if (queries.room == 0) return;
  const int64_t blocks = ceil_divide(p.query_count * p.num_heads, kWarps);
  dispatch_floating(dtype, [&]<typename Element>() {
    attention_join_pieces<Element><<<static_cast<unsigned>(blocks), kThreads, 0, context.stream>>>(p);
  });
  CBTM_CUDA_LAUNCHED("attention_join_pieces");
}

}  // namespace cbtm::cuda
