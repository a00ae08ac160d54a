// Token and position embeddings. The backward pass sorts the rows by the table row that they add to, sums equal ones
// piece by piece, and joins the sums that cross pieces: no float atomics, and the order is fixed.

#include <algorithm>
#include <cub/device/device_radix_sort.cuh>
#include <type_traits>
#include <utility>

#include "dispatch.h"
#include "elements.cuh"
#include "embedding.h"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

constexpr int kWarpsPerBlock = 8;
constexpr int kBlocksPerMultiprocessor = 8;

/// As many elements as the wider type has in 16 bytes, so that a warp's accesses of both types are contiguous.
template <typename Element, typename Table>
constexpr int kPackLength = 16 / static_cast<int>(sizeof(Element) > sizeof(Table) ? sizeof(Element) : sizeof(Table));

template <typename Element, typename Table>
struct ForwardParams {
  const int32_t* ids;  ///< null: no token table
  const Table* token_table;
  int64_t token_stride;
  const float* token_scales;  ///< of an int8 table
  const int32_t* positions;   ///< null: no position table
  const Table* position_table;
  int64_t position_stride;
  Element* out;
  int64_t out_stride;
  int64_t rows;
  int width;
  bool accumulate;
  bool aligned;  ///< rows start at multiples of kLength elements
};

// out[r] = token_table[ids[r]] + position_table[positions[r]] (+ out[r])
//
// mapping   a warp a row, packs of kLength columns to its lanes in turn, grid-stride over rows
// bytes     rows * width * (2 tables read + out written [+ out read]) + rows * 8
// numerics  the sum in float32, rounded once
template <typename Element, typename Table, bool kWhole>
__global__ void __launch_bounds__(32 * kWarpsPerBlock, 4)
    embedding_forward_rows(const ForwardParams<Element, Table> p) {
  constexpr int kLength = kPackLength<Element, Table>;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarpsPerBlock;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.y; row < p.rows; row += step) {
    const Table* token = p.ids != nullptr ? p.token_table + p.ids[row] * p.token_stride : nullptr;
    const Table* position = p.positions != nullptr ? p.position_table + p.positions[row] * p.position_stride : nullptr;
    Element* out = p.out + row * p.out_stride;
#pragma unroll 4
    for (int column = static_cast<int>(threadIdx.x) * kLength; column < p.width; column += 32 * kLength) {
      const int available = p.width - column;
      float sum[kLength] = {}, added[kLength];
      if (token != nullptr) {
        load_packed<Table, kLength, kWhole>(token + column, available, p.aligned).unpack(sum);
        if constexpr (std::is_same_v<Table, int8_t>) {
          const float scale = p.token_scales[p.ids[row]];
#pragma unroll
          for (int i = 0; i < kLength; ++i) sum[i] *= scale;
        }
      }
      if (position != nullptr) {
        load_packed<Table, kLength, kWhole>(position + column, available, p.aligned).unpack(added);
#pragma unroll
        for (int i = 0; i < kLength; ++i) sum[i] += added[i];
      }
      if (p.accumulate) {
        load_packed<Element, kLength, kWhole>(out + column, available, p.aligned).unpack(added);
#pragma unroll
        for (int i = 0; i < kLength; ++i) sum[i] += added[i];
      }
      store_packed<Element, kLength, kWhole>(out + column, available, p.aligned, sum);
    }
  }
}

// The backward pass works on entries: (key, row), where a key is a row of the token table or, from token_rows on, of
// the position table. They are sorted by key, equal keys in the order of their rows. Runs of equal keys are summed
// within pieces of kPieceEntries entries; a run that crosses a border leaves a partial sum in each piece.

constexpr int kPieceEntries = 32;
constexpr int kPieceThreads = 128;
constexpr int kSumLength = 4;  ///< columns of a thread: 16 bytes of the float32 tables

struct Entries {
  const int32_t* keys;
  const int32_t* rows;
  int count;
};

template <typename Element>
struct BackwardParams {
  Entries entries;
  const Element* gradient;
  int64_t gradient_stride;
  float* token_gradient;
  int64_t token_stride;
  float* position_gradient;
  int64_t position_stride;
  int token_rows;   ///< keys from here on are of the position table
  float* partials;  ///< [pieces][2][padded_width]: of the run that enters a piece, of the run that leaves it
  int width, padded_width;
  bool aligned;  ///< rows of the gradient and of the tables start at multiples of kSumLength elements

  __device__ float* target(int key) const {
    return key < token_rows ? token_gradient + key * token_stride
                            : position_gradient + (key - token_rows) * position_stride;
  }
};

// keys[e] = ids[e] for the rows of the token table, then token_rows + positions[e - rows]; rows[e] = the row.
__global__ void __launch_bounds__(256) embedding_entries(const int32_t* ids, const int32_t* positions, int rows,
                                                         int token_rows, int32_t* keys, int32_t* entry_rows) {
  const int e = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const int tokens = ids != nullptr ? rows : 0;
  const int count = tokens + (positions != nullptr ? rows : 0);
  if (e >= count) return;
  keys[e] = e < tokens ? ids[e] : token_rows + positions[e - tokens];
  entry_rows[e] = e < tokens ? e : e - tokens;
}

__device__ void add_to_row(float* target, int available, bool aligned, const float (&sum)[kSumLength]) {
  float total[kSumLength];
  load_packed<float, kSumLength>(target, available, aligned).unpack(total);
#pragma unroll
  for (int i = 0; i < kSumLength; ++i) total[i] += sum[i];
  store_packed<float, kSumLength>(target, available, aligned, total);
}

// Sums of runs within a piece: those that lie in it whole are added to their table row, the others become partials.
//
// mapping   blockIdx.x a piece, blockIdx.y kPieceThreads packs of kSumLength columns; a thread has the same columns in
//           all entries, in registers
// bytes     entries * width * sizeof(Element) + runs * width * 8 + 8 * entries
// order     ascending rows within a run
template <typename Element>
__global__ void __launch_bounds__(kPieceThreads) embedding_piece_sums(const BackwardParams<Element> p) {
  __shared__ int32_t keys[kPieceEntries + 2];  // with the neighbours of the piece; -1 where there is none
  __shared__ int32_t rows[kPieceEntries];
  const int first = static_cast<int>(blockIdx.x) * kPieceEntries;
  const int count = min(kPieceEntries, p.entries.count - first);
  for (int i = static_cast<int>(threadIdx.x); i < kPieceEntries + 2; i += kPieceThreads) {
    const int e = first + i - 1;
    keys[i] = e >= 0 && e < p.entries.count ? p.entries.keys[e] : -1;
    if (i < count) rows[i] = p.entries.rows[first + i];
  }
  __syncthreads();
  const int column = static_cast<int>(blockIdx.y * kPieceThreads + threadIdx.x) * kSumLength;
  const int available = p.width - column;
  if (available <= 0) return;

  float sum[kSumLength] = {};
  bool entered = keys[0] == keys[1];
#pragma unroll 4
  for (int i = 0; i < count; ++i) {
    float values[kSumLength];
    load_packed<Element, kSumLength>(p.gradient + rows[i] * p.gradient_stride + column, available, p.aligned)
        .unpack(values);
#pragma unroll
    for (int k = 0; k < kSumLength; ++k) sum[k] += values[k];
    const bool last = i + 1 == count;
    if (!last && keys[i + 2] == keys[i + 1]) continue;
    const bool leaves = last && keys[i + 2] == keys[i + 1];
    if (entered || leaves) {
      float* partial = p.partials + (int64_t{2} * blockIdx.x + (entered ? 0 : 1)) * p.padded_width;
      store_packed<float, kSumLength>(partial + column, kSumLength, true, sum);
    } else {
      add_to_row(p.target(keys[i + 1]) + column, available, p.aligned, sum);
    }
    entered = false;
#pragma unroll
    for (int k = 0; k < kSumLength; ++k) sum[k] = 0;
  }
}

// Runs that cross pieces: the block of the piece in which such a run starts adds up its partials in order.
//
// mapping   as embedding_piece_sums
// bytes     partial sums of crossing runs * width * 4 + crossing runs * width * 8
template <typename Element>
__global__ void __launch_bounds__(kPieceThreads) embedding_join_pieces(const BackwardParams<Element> p) {
  const int piece = static_cast<int>(blockIdx.x);
  const int end = (piece + 1) * kPieceEntries;  // first entry of the next piece
  if (end >= p.entries.count) return;
  const int32_t* keys = p.entries.keys;
  const int32_t key = keys[end - 1];
  if (keys[end] != key) return;  // nothing leaves this piece
  const int first = end - kPieceEntries;
  if (first > 0 && keys[first] == key && keys[first - 1] == key) return;  // it started in an earlier one
  const int column = static_cast<int>(blockIdx.y * kPieceThreads + threadIdx.x) * kSumLength;
  const int available = p.width - column;
  if (available <= 0) return;
  float sum[kSumLength], values[kSumLength];
  load_packed<float, kSumLength>(p.partials + (int64_t{2} * piece + 1) * p.padded_width + column, kSumLength, true)
      .unpack(sum);
  for (int next = piece + 1; next * kPieceEntries < p.entries.count && keys[next * kPieceEntries] == key; ++next) {
    load_packed<float, kSumLength>(p.partials + int64_t{2} * next * p.padded_width + column, kSumLength, true)
        .unpack(values);
#pragma unroll
    for (int k = 0; k < kSumLength; ++k) sum[k] += values[k];
  }
  add_to_row(p.target(key) + column, available, p.aligned, sum);
}

/// What embedding_backward works on and where it lies in scratch memory.
struct BackwardPlan {
  int64_t entries = 0;
  int key_bits = 1;
  int64_t padded_width = 0;
  size_t sort_bytes = 0;
  int64_t lists[4] = {};  ///< offsets of keys and rows, unsorted and sorted
  int64_t partials = 0, sort = 0;
  int64_t bytes = 0;

  BackwardPlan(const Context& context, const EmbeddingBackward& arguments) {
    const ConstTensorView gradient = arguments.out_gradient;
    const bool tokens = arguments.token_table_gradient.size() > 0,
               positions = arguments.position_table_gradient.size() > 0;
    entries = gradient.columns == 0 ? 0 : gradient.rows * ((tokens ? 1 : 0) + (positions ? 1 : 0));
    if (entries == 0) return;
    const int64_t keys = arguments.token_table_gradient.rows + arguments.position_table_gradient.rows;
    CBTM_ASSERT(entries < (int64_t{1} << 30) && keys < (int64_t{1} << 31), "entries and keys are counted in 32 bits");
    while ((int64_t{1} << key_bits) < keys) ++key_bits;
    padded_width = round_up(gradient.columns, kSumLength);
    CBTM_CUDA(cub::DeviceRadixSort::SortPairs(nullptr, sort_bytes, static_cast<const int32_t*>(nullptr),
                                              static_cast<int32_t*>(nullptr), static_cast<const int32_t*>(nullptr),
                                              static_cast<int32_t*>(nullptr), static_cast<int>(entries), 0, key_bits,
                                              context.stream));
    for (int64_t& list : lists) list = take(entries * 4);
    partials = take(ceil_divide(entries, kPieceEntries) * 2 * padded_width * 4);
    sort = take(static_cast<int64_t>(sort_bytes));
  }

 private:
  int64_t take(int64_t wanted) { return std::exchange(bytes, bytes + round_up(wanted, 256)); }
};

template <typename Element, typename Table>
void launch_forward(Context& context, const EmbeddingForward& arguments) {
  constexpr int kLength = kPackLength<Element, Table>;
  const TensorView out = arguments.out;
  const ConstTensorView tokens = arguments.token_table, positions = arguments.position_table;
  const ForwardParams<Element, Table> p = {
      .ids = tokens ? arguments.ids.as<int32_t>() : nullptr,
      .token_table = tokens ? tokens.as<Table>() : nullptr,
      .token_stride = tokens.row_stride,
      .token_scales = arguments.token_table_scales ? arguments.token_table_scales.as<float>() : nullptr,
      .positions = positions ? arguments.positions.as<int32_t>() : nullptr,
      .position_table = positions ? positions.as<Table>() : nullptr,
      .position_stride = positions.row_stride,
      .out = out.as<Element>(),
      .out_stride = out.row_stride,
      .rows = out.rows,
      .width = static_cast<int>(out.columns),
      .accumulate = arguments.accumulate,
      .aligned = rows_aligned(out, kLength * static_cast<int64_t>(sizeof(Element))) &&
                 rows_aligned(tokens, kLength * static_cast<int64_t>(sizeof(Table))) &&
                 rows_aligned(positions, kLength * static_cast<int64_t>(sizeof(Table)))};
  const auto blocks = static_cast<unsigned>(
      std::min<int64_t>(ceil_divide(out.rows, kWarpsPerBlock), int64_t{kBlocksPerMultiprocessor} * context.sm_count));
  const dim3 threads(32, kWarpsPerBlock);
  dispatch_bool(p.aligned && p.width % kLength == 0, [&]<bool kWhole>() {
    embedding_forward_rows<Element, Table, kWhole><<<blocks, threads, 0, context.stream>>>(p);
  });
  CBTM_CUDA_LAUNCHED("embedding_forward_rows");
}

}  // namespace

void embedding_forward(Context& context, const EmbeddingForward& arguments) {
  if (arguments.out.size() == 0) return;
  CBTM_ASSERT(arguments.token_table || arguments.position_table, "an embedding comes from a table");
  CBTM_ASSERT(!arguments.token_table || !arguments.position_table || !arguments.token_table_scales,
              "positions are added to a quantised table's rows by a second call");
  CBTM_ASSERT(!arguments.token_table || !arguments.position_table ||
                  arguments.token_table.dtype == arguments.position_table.dtype,
              "the tables have one type");
  CBTM_ASSERT(!arguments.token_table_scales || (arguments.token_table.dtype == DType::i8 && !arguments.accumulate),
              "int8 rows are written, not added");
  const DType table = arguments.token_table ? arguments.token_table.dtype : arguments.position_table.dtype;
  dispatch_floating(arguments.out.dtype, [&]<typename Element>() {
    if (table == DType::f32) return launch_forward<Element, float>(context, arguments);
    if (table == DType::i8) return launch_forward<Element, int8_t>(context, arguments);
    if (table == dtype_of<Element>()) return launch_forward<Element, Element>(context, arguments);
    CBTM_ASSERT((std::is_same_v<Element, float>), "tables are float32, or of the output's type, or narrower");
    table == DType::bf16 ? launch_forward<float, bf16>(context, arguments)
                         : launch_forward<float, f16>(context, arguments);
  });
}

int64_t scratch_bytes(const Context& context, const EmbeddingBackward& arguments) {
  return BackwardPlan(context, arguments).bytes;
}

void embedding_backward(Context& context, const EmbeddingBackward& arguments) {
  const ConstTensorView gradient = arguments.out_gradient;
  const TensorView tokens = arguments.token_table_gradient, positions = arguments.position_table_gradient;
  BackwardPlan plan(context, arguments);
  if (plan.entries == 0) return;
  const int64_t entries = plan.entries;
  const int64_t token_rows = tokens ? tokens.rows : 0;
  const int count = static_cast<int>(entries);
  const auto pieces = static_cast<unsigned>(ceil_divide(entries, kPieceEntries));
  char* scratch = static_cast<char*>(context.workspace(plan.bytes));
  const auto list = [&](int number) { return reinterpret_cast<int32_t*>(scratch + plan.lists[number]); };

  embedding_entries<<<static_cast<unsigned>(ceil_divide(entries, 256)), 256, 0, context.stream>>>(
      tokens ? arguments.ids.as<int32_t>() : nullptr, positions ? arguments.positions.as<int32_t>() : nullptr,
      static_cast<int>(gradient.rows), static_cast<int>(token_rows), list(0), list(1));
  CBTM_CUDA_LAUNCHED("embedding_entries");
  CBTM_CUDA(cub::DeviceRadixSort::SortPairs(scratch + plan.sort, plan.sort_bytes, list(0), list(2), list(1), list(3),
                                            count, 0, plan.key_bits, context.stream));
  dispatch_floating(gradient.dtype, [&]<typename Element>() {
    const BackwardParams<Element> p = {
        .entries = {list(2), list(3), count},
        .gradient = gradient.as<Element>(),
        .gradient_stride = gradient.row_stride,
        .token_gradient = tokens ? tokens.as<float>() : nullptr,
        .token_stride = tokens.row_stride,
        .position_gradient = positions ? positions.as<float>() : nullptr,
        .position_stride = positions.row_stride,
        .token_rows = static_cast<int>(token_rows),
        .partials = reinterpret_cast<float*>(scratch + plan.partials),
        .width = static_cast<int>(gradient.columns),
        .padded_width = static_cast<int>(plan.padded_width),
        .aligned = rows_aligned(gradient, kSumLength * static_cast<int64_t>(sizeof(Element))) &&
                   rows_aligned(tokens, 16) && rows_aligned(positions, 16)};
    const dim3 grid(pieces, static_cast<unsigned>(ceil_divide(gradient.columns, kPieceThreads * kSumLength)));
    embedding_piece_sums<Element><<<grid, kPieceThreads, 0, context.stream>>>(p);
    CBTM_CUDA_LAUNCHED("embedding_piece_sums");
    embedding_join_pieces<Element><<<grid, kPieceThreads, 0, context.stream>>>(p);
    CBTM_CUDA_LAUNCHED("embedding_join_pieces");
  });
}

}  // namespace cbtm::cuda
