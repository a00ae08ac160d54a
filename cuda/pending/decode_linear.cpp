#include "decode_linear.h"

// Compiled only as long as cuda/decode_linear.cu (or .cpp) does not exist.
namespace cbtm::cuda {

bool decode_linear_applies(const LinearForward&) { return false; }
void decode_linear(Context&, const LinearForward&) { fail("decode_linear: the CUDA device does not have it yet"); }

}  // namespace cbtm::cuda
