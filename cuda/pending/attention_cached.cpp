#include "attention_cached.h"

// Compiled only as long as cuda/attention_cached.cu (or .cpp) does not exist.
namespace cbtm::cuda {

void attention_cached(Context&, const AttentionCached&) {
  fail("attention_cached: the CUDA device does not have it yet");
}

}  // namespace cbtm::cuda
