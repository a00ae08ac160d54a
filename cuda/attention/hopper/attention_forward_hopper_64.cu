#include "attention/hopper/attention_forward_hopper.cuh"

namespace cbtm::cuda {

template void launch_attention_forward_hopper<64>(Context&, DType, AttentionParams,
                                                  const SequenceTable<AttentionQueryTile>&);

}  // namespace cbtm::cuda
