// Copies that change the floating type.

#include "convert.h"
#include "dispatch.h"
#include "elements.cuh"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 4;
constexpr int kBlocksPerMultiprocessor = 8;

template <typename Target, typename Source>
struct ConvertParams {
  Target* target;
  const Source* source;
  int64_t target_stride, source_stride;
  int64_t rows, width;
  int64_t chunks;  ///< of a row, each kThreads * kUnroll packs
};

// target[r, c] = source[r, c], rounded to nearest even
//
// mapping   a block a chunk of a row, grid-stride over chunks; neighbouring threads on neighbouring packs, of as many
//           elements as the wider type has in 16 bytes
// bytes     rows * width * (sizeof(Source) + sizeof(Target))
template <bool kAligned, typename Target, typename Source>
__global__ void __launch_bounds__(kThreads) convert_chunks(const ConvertParams<Target, Source> p) {
  constexpr int kLength = 16 / static_cast<int>(sizeof(Target) > sizeof(Source) ? sizeof(Target) : sizeof(Source));
  for (int64_t chunk = blockIdx.x; chunk < p.rows * p.chunks; chunk += gridDim.x) {
    const int64_t row = chunk / p.chunks;
    const int64_t first = (chunk - row * p.chunks) * kThreads * kUnroll * kLength;
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t column = first + (u * kThreads + static_cast<int>(threadIdx.x)) * kLength;
      if (column >= p.width) continue;
      const int available = p.width - column > kLength ? kLength : static_cast<int>(p.width - column);
      float values[kLength];
      load_packed<Source, kLength>(p.source + row * p.source_stride + column, available, kAligned).unpack(values);
      store_packed<Target, kLength>(p.target + row * p.target_stride + column, available, kAligned, values);
    }
  }
}

template <typename Target, typename Source>
void launch(Context& context, TensorView destination, ConstTensorView source) {
  constexpr int64_t kLength = 16 / static_cast<int64_t>(std::max(sizeof(Target), sizeof(Source)));
  const bool whole = destination.contiguous() && source.contiguous();  // then the rows are one
  ConvertParams<Target, Source> p = {.target = destination.as<Target>(),
                                     .source = source.as<Source>(),
                                     .target_stride = destination.row_stride,
                                     .source_stride = source.row_stride,
                                     .rows = whole ? 1 : source.rows,
                                     .width = whole ? source.size() : source.columns,
                                     .chunks = 0};
  p.chunks = ceil_divide(p.width, kThreads * kUnroll * kLength);
  const bool aligned = rows_aligned(whole ? TensorView(destination.data, destination.dtype, 1, p.width) : destination,
                                    kLength * static_cast<int64_t>(sizeof(Target))) &&
                       rows_aligned(whole ? ConstTensorView(source.data, source.dtype, 1, p.width) : source,
                                    kLength * static_cast<int64_t>(sizeof(Source)));
  const int64_t blocks = std::min(p.rows * p.chunks, int64_t{kBlocksPerMultiprocessor} * context.sm_count);
  dispatch_bool(aligned, [&]<bool kAligned>() {
    convert_chunks<kAligned><<<static_cast<unsigned>(blocks), kThreads, 0, context.stream>>>(p);
  });
  CBTM_CUDA_LAUNCHED("convert_chunks");
}

}  // namespace

void convert(Context& context, TensorView destination, ConstTensorView source) {
  CBTM_ASSERT(destination.rows == source.rows && destination.columns == source.columns, "a copy keeps the shape");
  if (source.size() == 0) return;
  dispatch_floating(destination.dtype, [&]<typename Target>() {
    dispatch_floating(source.dtype, [&]<typename Source>() {
      if constexpr (std::is_same_v<Target, Source>) {
        CBTM_ASSERT(false, "a copy that keeps the type is the device's own");
      } else {
        launch<Target, Source>(context, destination, source);
      }
    });
  });
}

}  // namespace cbtm::cuda
