#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <span>

namespace cbtm {
struct PassSequences;
}

namespace cbtm::cuda {

class MatmulPlans;
class SequenceTables;

/// What every operator of the CUDA device gets: where to launch, on what, and where scratch memory comes from.
/// Operators are free functions `void layernorm_forward(Context&, const Arguments&)`, a header and a .cu a family.
/// They launch on `stream`, never synchronise, never allocate.
class Context {
 public:
  virtual ~Context() = default;

  cudaStream_t stream = nullptr;       ///< of compute
  int sm_count = 0;                    ///< multiprocessors
  int compute_capability = 0;          ///< 80, 90, ...
  int shared_bytes_per_block_max = 0;  ///< with opt-in

  /// Scratch memory of at least `bytes`, 256-byte aligned, valid until the next operator: later operators of the stream
  /// may overwrite it. One call an operator. From the device's arena; grows (and synchronises) outside of steps only.
  virtual void* workspace(int64_t bytes) = 0;

  /// Host numbers that stay from step to step on the device, valid for the operators up to the end of the step; copied
  /// through pinned memory in stream order. The same content asked for again is not copied again.
  virtual const int32_t* upload(std::span<const int32_t> values) = 0;

  /// What kernels read of a pass's sequences, after SequenceTables::lay_out (runtime/sequence_tables.h).
  virtual SequenceTables& sequence_tables(const PassSequences& sequences) = 0;

  /// What matmul.h keeps from product to product; made (and cuBLASLt loaded) at the first one.
  virtual MatmulPlans& matmul_plans() = 0;
};

}  // namespace cbtm::cuda
