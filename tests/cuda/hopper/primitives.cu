// A product through everything that cuda/hopper offers: a warp that loads tiles, a ring of two stages, and two
// warpgroups that multiply 64 rows each, with either order of either operand.

#include "cbtm/base/error.h"
#include "hopper/bulk_copy.cuh"
#include "hopper/tensor_map.h"
#include "hopper/warpgroup.cuh"
#include "hopper/wgmma.cuh"
#include "runtime/check.h"
#include "tests/cuda/hopper/primitives.h"

namespace cbtm::cuda {
namespace {

using namespace hopper;

constexpr int kStages = 2;
constexpr int kDepth = 64;  ///< of k a stage
constexpr int kConsumers = 2;
constexpr int kThreads = (kConsumers + 1) * kWarpgroupThreads;
constexpr int kTileBytes = 64 * kDepth * 2;

/// Tiles of one stage: the left one, and the right ones, which take whole multiples of 64 columns where k is not
/// contiguous.
template <int kN>
struct Shared {
  static constexpr int kRightTiles = (kN + 63) / 64;
  unsigned char left[kStages][kConsumers][kTileBytes];
  unsigned char right[kStages][kRightTiles][kTileBytes];
  Barrier full[kStages], empty[kStages];
};

/// The pair of elements at `row`, `k` of a swizzled tile with contiguous k.
__device__ uint32_t pair_at(const unsigned char* tile, int row, int k) {
  return *reinterpret_cast<const uint32_t*>(tile + row * 128 + ((k / 8) ^ (row % 8)) * 16 + k % 8 * 2);
}

template <typename Element, int kN, bool kRegisters, Major kLeft, Major kRight>
__global__ void __launch_bounds__(kThreads, 1)
    multiply_kernel(const __grid_constant__ CUtensorMap left, const __grid_constant__ CUtensorMap right, float* c,
                    int steps) {
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<Shared<kN>*>(memory);
  constexpr int kRightTiles = Shared<kN>::kRightTiles;
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      shared.full[stage].initialise(1);
      shared.empty[stage].initialise(kConsumers * kWarpgroupThreads);
    }
    publish_barriers();
  }
  __syncthreads();
  RingPosition<kStages> ring;
  if (thread >= kConsumers * kWarpgroupThreads) {
    give_registers_back<40>();
    if (thread >= kConsumers * kWarpgroupThreads + 32 || !is_elected()) return;
    prefetch_map(left);
    prefetch_map(right);
    for (int step = 0; step < steps; ++step, ring.advance()) {
      Barrier& full = shared.full[ring.stage];
      shared.empty[ring.stage].wait(ring.parity ^ 1);
      const int k = step * kDepth;
      constexpr int kRightBytes = kRight == Major::k ? kN * kDepth * 2 : kRightTiles * kTileBytes;
      full.arrive_and_expect(kConsumers * kTileBytes + kRightBytes);
      for (int group = 0; group < kConsumers; ++group)
        load_tile(shared.left[ring.stage][group], left, kLeft == Major::k ? 64 * group : k,
                  kLeft == Major::k ? k : 64 * group, full);
      if constexpr (kRight == Major::k) {
        load_tile(shared.right[ring.stage], right, 0, k, full);
      } else {
        for (int tile = 0; tile < kRightTiles; ++tile)
          load_tile(shared.right[ring.stage][tile], right, k, 64 * tile, full);
      }
    }
    return;
  }
  take_registers<232>();
  float sums[kN / 2];
  const int group = thread / kWarpgroupThreads, warp = thread / 32 % 4;
  const int row = 16 * warp + thread % 32 / 4, pair = thread % 4 * 2;
  for (int step = 0; step < steps; ++step, ring.advance()) {
    shared.full[ring.stage].wait(ring.parity);
    const unsigned char* tile = shared.left[ring.stage][group];
    const uint64_t a = describe<kLeft>(tile), b = describe<kRight>(shared.right[ring.stage], kTileBytes);
    uint32_t fragments[kDepth / 16][4];
    if constexpr (kRegisters) {
#pragma unroll
      for (int i = 0; i < kDepth / 16; ++i) {
        for (int j = 0; j < 4; ++j) fragments[i][j] = pair_at(tile, row + j % 2 * 8, 16 * i + pair + j / 2 * 8);
        hold(fragments[i]);
      }
    }
    hold(sums);
    begin_products();
#pragma unroll
    for (int i = 0; i < kDepth / 16; ++i) {
      const uint64_t b_step = advanced(b, kRight == Major::k ? 32 * i : 2048 * i);
      if constexpr (kRegisters)
        multiply<Element, kRight>(sums, fragments[i], b_step, step + i > 0);
      else
        multiply<Element, kLeft, kRight>(sums, advanced(a, kLeft == Major::k ? 32 * i : 2048 * i), b_step,
                                         step + i > 0);
    }
    commit_products();
    wait_for_products<0>();
    hold(sums);
    shared.empty[ring.stage].arrive();
  }
#pragma unroll
  for (int i = 0; i < kN / 2; ++i) c[(64 * group + row + i / 2 % 2 * 8) * kN + i / 4 * 8 + pair + i % 2] = sums[i];
}

template <typename Element, int kN, bool kRegisters, Major kLeft, Major kRight>
void launch(ConstTensorView left, ConstTensorView right, TensorView c, cudaStream_t stream) {
  const auto kernel = multiply_kernel<Element, kN, kRegisters, kLeft, kRight>;
  constexpr int kBytes = sizeof(Shared<kN>);
  CBTM_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  const int64_t k = kLeft == Major::k ? left.columns : left.rows;
  CBTM_ASSERT(c.rows == 128 && c.columns == kN && c.row_stride == kN, "a test's product is 128 whole rows");
  kernel<<<1, kThreads, kBytes, stream>>>(make_tensor_map(left, 64, 64),
                                          make_tensor_map(right, kRight == Major::k ? kN : 64, 64),
                                          static_cast<float*>(c.data), static_cast<int>((k + kDepth - 1) / kDepth));
  CBTM_CUDA_LAUNCHED("multiply_kernel");
}

template <typename Element, int kN>
void launch(const PrimitiveCase& which, ConstTensorView left, ConstTensorView right, TensorView c,
            cudaStream_t stream) {
  const auto with_right = [&]<Major kRight>() {
    if (which.left_from_registers) return launch<Element, kN, true, Major::k, kRight>(left, right, c, stream);
    if (which.left_by_rows_of_k) return launch<Element, kN, false, Major::mn, kRight>(left, right, c, stream);
    return launch<Element, kN, false, Major::k, kRight>(left, right, c, stream);
  };
  if (which.right_by_rows_of_k)
    with_right.template operator()<Major::mn>();
  else
    with_right.template operator()<Major::k>();
}

}  // namespace

void multiply_by_primitives(const PrimitiveCase& which, ConstTensorView left, ConstTensorView right, TensorView c,
                            cudaStream_t stream) {
  const auto with_columns = [&]<typename Element>() {
    switch (which.columns) {
      case 16: return launch<Element, 16>(which, left, right, c, stream);
      case 80: return launch<Element, 80>(which, left, right, c, stream);
      case 128: return launch<Element, 128>(which, left, right, c, stream);
      case 256: return launch<Element, 256>(which, left, right, c, stream);
      default: CBTM_ASSERT(false, "a test's product has 16, 80, 128 or 256 columns");
    }
  };
  if (left.dtype == DType::f16)
    with_columns.template operator()<__half>();
  else
    with_columns.template operator()<__nv_bfloat16>();
}

}  // namespace cbtm::cuda
