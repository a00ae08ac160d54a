#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cbtm/device/token_filter.h"

namespace cbtm::cuda {

/// tokens[s] from scores [sequences, vocab_size] (natural log): one launch. -1 where no score is a number, or one is
/// infinite.
struct SampleTokens {
  const float* scores;
  int64_t sequences;
  int64_t vocab_size;
  int64_t stride;          ///< of a row of scores
  const double* uniforms;  ///< [sequences]; not read if greedy
  bool greedy;
  TokenFilter filter;
  int32_t* tokens;
};
void sample_tokens(cudaStream_t stream, const SampleTokens& arguments);

}  // namespace cbtm::cuda
