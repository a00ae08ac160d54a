// A gather of rows, by the widest words at which every row starts and ends.

#include <algorithm>

#include "dispatch.h"
#include "gather.h"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

constexpr int kWarpsPerBlock = 8;
constexpr int kBlocksPerMultiprocessor = 8;

// out[r] = source[rows[r] / divisor] for r < count, or *kept if it is given; strides and width in words.
//
// mapping   a warp a row, words to its lanes in turn, grid-stride over rows
// bytes     2 * count * width * sizeof(Word) + 4 * count
template <typename Word>
__global__ void __launch_bounds__(32 * kWarpsPerBlock)
    gather_rows_of_words(const Word* __restrict__ source, int64_t source_stride, const int32_t* __restrict__ rows,
                         int divisor, int64_t count, const int32_t* __restrict__ kept, int64_t width,
                         Word* __restrict__ out, int64_t out_stride) {
  if (kept != nullptr) count = *kept;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarpsPerBlock;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.y; row < count; row += step) {
    const Word* from = source + rows[row] / divisor * source_stride;
    Word* to = out + row * out_stride;
#pragma unroll 4
    for (int64_t word = threadIdx.x; word < width; word += 32) to[word] = from[word];
  }
}

template <typename Word>
void launch_gather(Context& context, const GatherRows& arguments, int divisor, const int32_t* kept) {
  constexpr auto kBytes = static_cast<int64_t>(sizeof(Word));
  const TensorView out = arguments.out;
  const int64_t item = dtype_bytes(out.dtype);
  const auto blocks = static_cast<unsigned>(
      std::min<int64_t>(ceil_divide(out.rows, kWarpsPerBlock), int64_t{kBlocksPerMultiprocessor} * context.sm_count));
  gather_rows_of_words<Word><<<blocks, dim3(32, kWarpsPerBlock), 0, context.stream>>>(
      static_cast<const Word*>(arguments.source.data), arguments.source.row_stride * item / kBytes,
      arguments.rows.as<int32_t>(), divisor, out.rows, kept, out.columns * item / kBytes, static_cast<Word*>(out.data),
      out.row_stride * item / kBytes);
  CBTM_CUDA_LAUNCHED("gather_rows");
}

}  // namespace

void gather_rows(Context& context, const GatherRows& arguments, int divisor, const int32_t* kept) {
  const ConstTensorView source = arguments.source;
  const TensorView out = arguments.out;
  CBTM_ASSERT(out.dtype == source.dtype && out.columns == source.columns, "rows are copied as they are");
  CBTM_ASSERT(out.rows == arguments.rows.columns, "a number for each row");
  if (out.size() == 0) return;
  const auto whole_words = [&](int64_t bytes) {
    const int64_t item = dtype_bytes(out.dtype);
    return out.columns * item % bytes == 0 && rows_aligned(source, bytes) && rows_aligned(out, bytes) &&
           source.row_stride * item % bytes == 0 && out.row_stride * item % bytes == 0;
  };
  if (whole_words(16)) return launch_gather<uint4>(context, arguments, divisor, kept);
  if (whole_words(4)) return launch_gather<uint32_t>(context, arguments, divisor, kept);
  if (whole_words(2)) return launch_gather<uint16_t>(context, arguments, divisor, kept);
  launch_gather<uint8_t>(context, arguments, divisor, kept);
}

}  // namespace cbtm::cuda
