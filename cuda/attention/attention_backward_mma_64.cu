#include "attention/attention_backward_mma.cuh"

namespace cbtm::cuda {

template void launch_attention_backward_mma<64>(const Context&, DType, const AttentionParams&, int64_t, int64_t);

}  // namespace cbtm::cuda
