#include "embedding.h"

// Compiled only as long as cuda/embedding.cu (or .cpp) does not exist.
namespace cbtm::cuda {

void embedding_forward(Context&, const EmbeddingForward&) {
  fail("embedding_forward: the CUDA device does not have it yet");
}
void embedding_backward(Context&, const EmbeddingBackward&) {
  fail("embedding_backward: the CUDA device does not have it yet");
}

}  // namespace cbtm::cuda
