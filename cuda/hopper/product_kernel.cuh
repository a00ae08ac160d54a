#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "cbtm/base/ceil_divide.h"
#include "hopper/bulk_copy.cuh"
#include "hopper/cluster.cuh"
#include "hopper/product_epilogue.cuh"
#include "hopper/warpgroup.cuh"
#include "hopper/wgmma.cuh"
#include "runtime/check.h"
#include "runtime/shared_memory_limit.h"

namespace cbtm::cuda::hopper {

inline constexpr int kProductStages = 4;
inline constexpr int kProductConsumers = 2;  ///< warpgroups that multiply
inline constexpr int kProductThreads = (kProductConsumers + 1) * kWarpgroupThreads;
/// Tiles of one cluster, one above the other, that are taken before those to their right: what 66 clusters work on at
/// one time, 8 by 8 or 9 tiles of 256 by 256, has the fewest rows and columns, so that L2 has most of what they load.
inline constexpr int kProductGroupRows = 8;

struct ProductShared {
  static constexpr int kTile = 64 * kProductDepth * 2;  ///< bytes of 64 rows or columns of a stage
  unsigned char a[kProductStages][kProductConsumers][kTile];
  unsigned char b[kProductStages][kProductColumns / 64][kTile];
  Barrier full[kProductStages], empty[kProductStages];

  static constexpr int kStageBytes = (kProductConsumers + kProductColumns / 64) * kTile;
  static constexpr int kBytes = 1024 + kProductStages * kStageBytes + 2 * kProductStages * 8;
};

template <ProductKind kKind>
struct ProductOrders {
  static constexpr Major kLeft = kKind == ProductKind::weight_gradient ? Major::mn : Major::k;
  static constexpr Major kRight =
      kKind == ProductKind::forward || kKind == ProductKind::forward_float ? Major::k : Major::mn;
  static constexpr bool kWide = kKind == ProductKind::forward_float || kKind == ProductKind::weight_gradient;
  static constexpr bool kSums = kKind == ProductKind::weight_gradient;
};

/// A block's next tile: the first row and column of c, and the elements of k of its part.
struct ProductTile {
  int row, column, part, first_k, last_k;
};

/// The tiles of c that a cluster makes, one after another: all of the first part of k, then those of the next one.
template <bool kWithParts>
struct ProductTiles {
  int rows, columns;  ///< of tiles: a cluster's are 256 by 256
  int parts, part_k, k;

  __device__ explicit ProductTiles(const ProductParams& p)
      : rows((p.m + kProductCluster * kProductBlockRows - 1) / (kProductCluster * kProductBlockRows)),
        columns((p.n + kProductColumns - 1) / kProductColumns),
        parts(kWithParts ? p.parts : 1),
        part_k(p.steps_per_part * kProductDepth),
        k(p.k) {}
  __device__ int count() const { return rows * columns * parts; }
  /// That of block `rank` of the cluster.
  __device__ ProductTile at(int number, uint32_t rank) const {
    const int part = kWithParts ? number / (rows * columns) : 0, tile = number - part * (rows * columns);
    const int group = tile / (kProductGroupRows * columns), within = tile % (kProductGroupRows * columns);
    const int height = min(kProductGroupRows, rows - group * kProductGroupRows);
    const int row = group * kProductGroupRows + within % height;
    return {(row * kProductCluster + static_cast<int>(rank)) * kProductBlockRows, within / height * kProductColumns,
            part, kWithParts ? part * part_k : 0, kWithParts ? min(k, (part + 1) * part_k) : k};
  }
};

/// The thread that loads. It waits until both blocks of the cluster have done with a stage, loads its own part of the
/// left operand, and its half of the right one for both.
template <ProductKind kKind>
__device__ __forceinline__ void load_tiles(const ProductParams& p, ProductShared& shared, uint32_t rank) {
  using Orders = ProductOrders<kKind>;
  const ProductTiles<Orders::kSums> tiles(p);
  const int clusters = static_cast<int>(gridDim.x) / kProductCluster;
  RingPosition<kProductStages> ring;
  prefetch_map(p.a);
  prefetch_map(p.b);
  for (int number = static_cast<int>(blockIdx.x) / kProductCluster; number < tiles.count(); number += clusters) {
    const auto [row, column, part, first_k, last_k] = tiles.at(number, rank);
    for (int k = first_k; k < last_k; k += kProductDepth, ring.advance()) {
      Barrier& full = shared.full[ring.stage];
      wait_for_cluster(shared.empty[ring.stage], ring.parity ^ 1);
      full.arrive_and_expect(ProductShared::kStageBytes);
      if constexpr (Orders::kLeft == Major::k) {
        load_tile(shared.a[ring.stage], p.a, row, k, full);
      } else {
        load_tile(shared.a[ring.stage][0], p.a, k, row, full);
        load_tile(shared.a[ring.stage][1], p.a, k, row + 64, full);
      }
      const auto half = static_cast<int>(rank) * 2;  // of four tiles of 64 columns
      const int first = column + 64 * half;
      constexpr uint16_t kBoth = 3;
      if constexpr (Orders::kRight == Major::k) {
        load_tile_in_cluster(shared.b[ring.stage][half], p.b, first, k, full, kBoth);
      } else {
        load_tile_in_cluster(shared.b[ring.stage][half], p.b, k, first, full, kBoth);
        load_tile_in_cluster(shared.b[ring.stage][half + 1], p.b, k, first + 64, full, kBoth);
      }
    }
  }
}

/// A warp has done with a stage of both blocks' operands.
__device__ __forceinline__ void release(Barrier& empty) {
  const uint32_t lane = threadIdx.x % 32;
  if (lane < kProductCluster) arrive_in_cluster(empty, lane);
}

/// Two warps that add what a weight gradient's left operand has in each of the block's rows, 64 rows each, two per
/// lane, where the block's tile is the leftmost. They read what the warpgroups multiply.
template <typename Stored>
__device__ __forceinline__ void add_rows(const ProductParams& p, ProductShared& shared, uint32_t rank, int half) {
  const ProductTiles<true> tiles(p);
  const int clusters = static_cast<int>(gridDim.x) / kProductCluster;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  RingPosition<kProductStages> ring;
  for (int number = static_cast<int>(blockIdx.x) / kProductCluster; number < tiles.count(); number += clusters) {
    const auto [first_row, column, part, first_k, last_k] = tiles.at(number, rank);
    float2 sum{};
    for (int first = first_k; first < last_k; first += kProductDepth, ring.advance()) {
      shared.full[ring.stage].wait(ring.parity);
      if (column == 0) {
        float2 of_stage{};
#pragma unroll 8
        for (int k = 0; k < kProductDepth; ++k) {
          const int unit = lane / 4 ^ k % 8;  // of 16 bytes, swizzled
          const unsigned char* pair = shared.a[ring.stage][half] + 128 * k + 16 * unit + 4 * (lane % 4);
          const auto word = *reinterpret_cast<const uint32_t*>(pair);
          of_stage.x += widened(Stored{static_cast<uint16_t>(word)});
          of_stage.y += widened(Stored{static_cast<uint16_t>(word >> 16)});
        }
        sum.x += of_stage.x, sum.y += of_stage.y;
      }
      __syncwarp();
      if (lane == 0) shared.empty[ring.stage].arrive();
    }
    const int row = first_row + 64 * half + 2 * lane;
    float* a_sums = p.a_sums + part * p.sums_part_stride;
    if (column == 0 && row < p.m) a_sums[row] = p.alpha * sum.x;
    if (column == 0 && row + 1 < p.m) a_sums[row + 1] = p.alpha * sum.y;
  }
}

/// sums = the 64 rows of the warpgroup by the tile's columns. One stage's products are under way while the next one's
/// operands are waited for.
template <typename Element, ProductKind kKind>
__device__ __forceinline__ void multiply_tile(ProductShared& shared, int group, int steps,
                                              RingPosition<kProductStages>& ring, float (&sums)[kProductSums]) {
  using Orders = ProductOrders<kKind>;
  constexpr int kLeftStep = Orders::kLeft == Major::k ? 32 : 2048, kRightStep = Orders::kRight == Major::k ? 32 : 2048;
  int previous = 0;
  for (int step = 0; step < steps; ++step) {
    const uint64_t a = describe<Orders::kLeft>(shared.a[ring.stage][group]);
    const uint64_t b = describe<Orders::kRight>(shared.b[ring.stage], ProductShared::kTile);
    shared.full[ring.stage].wait(ring.parity);
    hold(sums);
    begin_products();
#pragma unroll
    for (int i = 0; i < kProductDepth / 16; ++i)
      multiply<Element, Orders::kLeft, Orders::kRight>(sums, advanced(a, kLeftStep * i), advanced(b, kRightStep * i),
                                                       step + i > 0);
    commit_products();
    if (step > 0) {
      wait_for_products<1>();
      release(shared.empty[previous]);
    }
    previous = ring.stage;
    ring.advance();
  }
  wait_for_products<0>();
  hold(sums);
  release(shared.empty[previous]);
}

/// A warpgroup that multiplies.
template <typename Element, typename Stored, ProductKind kKind>
__device__ __forceinline__ void make_tiles(const ProductParams& p, ProductShared& shared, uint32_t rank, int group) {
  const ProductTiles<ProductOrders<kKind>::kSums> tiles(p);
  const int clusters = static_cast<int>(gridDim.x) / kProductCluster;
  const int thread = static_cast<int>(threadIdx.x);
  RingPosition<kProductStages> ring;
  for (int number = static_cast<int>(blockIdx.x) / kProductCluster; number < tiles.count(); number += clusters) {
    const auto [first_row, column, part, first_k, last_k] = tiles.at(number, rank);
    const int steps = (last_k - first_k + kProductDepth - 1) / kProductDepth;
    float sums[kProductSums];
    multiply_tile<Element, kKind>(shared, group, steps, ring, sums);
    const SumsPlace at{first_row + 64 * group + thread / 32 % 4 * 16 + thread % 32 / 4, column, thread % 4};
    if constexpr (ProductOrders<kKind>::kWide)
      finish_wide(p, static_cast<float*>(p.c) + part * p.c_part_stride, sums, at);
    else
      finish_narrow<Stored>(p, sums, at);
  }
}

// c = epilogue(alpha op(a) op(b) + beta c) by TMA and wgmma (matmul.h says what the epilogue is).
//
// grid       as many clusters of two blocks as the GPU has room for. Each takes every so many-th tile of 256 x 256 of
//            c, and a block 128 x 256 of it, in an order that keeps in L2 what is loaded. Where c has few tiles, k is
//            cut in parts, and each part makes all of c (product_parts.cu adds them).
// block      two warpgroups multiply 64 x 256 each. Of a third one, a thread loads, and two warps add the rows of a
//            where their sums are asked for. The ring's stages, 64 of k, pass by mbarriers: full when the bytes of both
//            operands have come, empty when the warps of both blocks have read them. A block loads its own rows of a,
//            and half of the tile's columns of b for both blocks.
// shared     4 stages of 48 KiB.
// registers  128 sums per thread, 224 for those that multiply, 56 for the others.
// bytes      loaded, from L2 mostly: m k n / 256 elements of a and n k m / 256 of b. c is written once, with its mask
//            beside it, and read with a beta; the sums of a cost no load. Nothing passes through memory again.
// numerics   float32 sums in tensor cores, in the order of k, one rounding at the end; sums of a by stages of 64.
template <typename Element, typename Stored, ProductKind kKind>
__global__ void __cluster_dims__(kProductCluster, 1, 1) __launch_bounds__(kProductThreads, 1)
    product_kernel(const __grid_constant__ ProductParams p) {
  extern __shared__ unsigned char memory[];
  auto& shared = *reinterpret_cast<ProductShared*>((reinterpret_cast<uintptr_t>(memory) + 1023) & ~uintptr_t{1023});
  const int thread = static_cast<int>(threadIdx.x), group = thread / kWarpgroupThreads;
  const uint32_t rank = cluster_rank();
  const bool with_sums = ProductOrders<kKind>::kSums && p.a_sums != nullptr;
  if (thread == 0) {
    for (int stage = 0; stage < kProductStages; ++stage) {
      shared.full[stage].initialise(1);
      shared.empty[stage].initialise(kProductCluster * kProductConsumers * 4 + (with_sums ? 2 : 0));
    }
    publish_barriers();
  }
  __syncthreads();
  meet_cluster();
  if (group == kProductConsumers) {
    give_registers_back<56>();
    const int warp = thread / 32 % 4;
    if (warp == 0 && is_elected()) load_tiles<kKind>(p, shared, rank);
    if (warp >= 2 && with_sums) add_rows<Stored>(p, shared, rank, warp - 2);
  } else {
    take_registers<224>();
    make_tiles<Element, Stored, kKind>(p, shared, rank, group);
  }
  meet_cluster();
}

template <typename Element, typename Stored, ProductKind kKind>
void launch_product_kind(const ProductParams& params, int multiprocessors, cudaStream_t stream) {
  const auto kernel = product_kernel<Element, Stored, kKind>;
  static_assert(ProductShared::kBytes <= 227 * 1024);
  allow_shared_bytes(reinterpret_cast<const void*>(kernel), ProductShared::kBytes);
  const int64_t tiles = product_tiles(params.m, params.n) * params.parts;
  const int64_t clusters = std::min<int64_t>(tiles, multiprocessors / kProductCluster);
  kernel<<<static_cast<unsigned>(clusters * kProductCluster), kProductThreads, ProductShared::kBytes, stream>>>(params);
  CBTM_CUDA_LAUNCHED("product_kernel");
}

template <typename Element, typename Stored>
void launch_product(ProductKind kind, const ProductParams& params, int multiprocessors, cudaStream_t stream) {
  const auto launch = [&]<ProductKind kKind>() {
    launch_product_kind<Element, Stored, kKind>(params, multiprocessors, stream);
  };
  switch (kind) {
    case ProductKind::forward: return launch.template operator()<ProductKind::forward>();
    case ProductKind::forward_float: return launch.template operator()<ProductKind::forward_float>();
    case ProductKind::input_gradient: return launch.template operator()<ProductKind::input_gradient>();
    case ProductKind::weight_gradient: return launch.template operator()<ProductKind::weight_gradient>();
  }
}

}  // namespace cbtm::cuda::hopper
