#include "attention/hopper/attention_backward_hopper.cuh"

namespace cbtm::cuda {

template void launch_attention_backward_hopper<80>(Context&, DType, AttentionParams, AttentionBackwardSums,
                                                   const SequenceTable<AttentionQueryTile>&,
                                                   const SequenceTable<AttentionBackwardTile>&);

}  // namespace cbtm::cuda
