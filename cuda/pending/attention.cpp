#include "attention.h"

// Compiled only as long as cuda/attention.cu (or .cpp) does not exist.
namespace cbtm::cuda {

void attention_forward(Context&, const AttentionForward&) {
  fail("attention_forward: the CUDA device does not have it yet");
}
void attention_backward(Context&, const AttentionBackward&) {
  fail("attention_backward: the CUDA device does not have it yet");
}

}  // namespace cbtm::cuda
