#include "attention/attention_forward_mma.cuh"

namespace cbtm::cuda {

template void launch_attention_forward_mma<128>(const Context&, DType, const AttentionParams&, int64_t);

}  // namespace cbtm::cuda
