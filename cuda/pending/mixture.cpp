#include "mixture.h"

// Compiled only as long as cuda/mixture.cu (or .cpp) does not exist.
namespace cbtm::cuda {

void mixture_log_probabilities(Context&, const MixtureLogProbabilities&) {
  fail("mixture_log_probabilities: the CUDA device does not have it yet");
}

}  // namespace cbtm::cuda
