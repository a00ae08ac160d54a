// Operators ask for no more scratch memory than they say.

#include <algorithm>

#include "cbtm/device/model_operators.h"
#include "device_context.h"
#include "matmul.h"
#include "model_operators.h"
#include "runtime/check.h"
#include "tests/cuda/attention_operands.h"

namespace cbtm {
namespace {

/// The GPU's context, with the most scratch memory that was asked for.
class WatchedContext final : public cuda::Context {
 public:
  WatchedContext() : context_(0) {
    stream = context_.stream;
    sm_count = context_.sm_count;
    compute_capability = context_.compute_capability;
    shared_bytes_per_block_max = context_.shared_bytes_per_block_max;
  }
  void* workspace(int64_t bytes) override {
    asked = std::max(asked, bytes);
    return context_.workspace(bytes);
  }
  const int32_t* upload(std::span<const int32_t> values) override { return context_.upload(values); }
  cuda::SequenceTables& sequence_tables(const PassSequences& sequences) override {
    return context_.sequence_tables(sequences);
  }
  cuda::MatmulPlans& matmul_plans() override { return context_.matmul_plans(); }

  int64_t asked = 0;

 private:
  cuda::DeviceContext context_;
};

/// Without its data, as a plan asks.
template <bool kConst>
void forget_data(BasicTensorView<kConst>& view) {
  view.data = nullptr;
}

TEST_CASE("operators ask for no more scratch memory than they say of the shapes alone") {
  WatchedContext context;
  cuda::CudaModelOperators operators(context);
  // More than the 2 MiB by which scratch memory grows, so that a wrong answer is one that would show in a training.
  for (const int64_t rows : {5, 700, 1500}) {
    CAPTURE(rows);
    constexpr int64_t kWidth = 64, kVocab = 1031, kHeads = 2;
    Matrix hidden(DType::bf16, rows, kWidth, kWidth, 0), gradient(DType::bf16, rows, kWidth, kWidth, 0);
    Matrix table(DType::bf16, kVocab, kWidth, kWidth, 0), table_gradient(DType::f32, kVocab, kWidth, kWidth, 0);
    Matrix position_gradient(DType::f32, kVocab, kWidth, kWidth, 0);
    Matrix statistics(DType::f32, 4, rows, rows, 0), vectors(DType::f32, 4, kWidth, kWidth, 0);
    Matrix query(DType::bf16, rows, kWidth, kWidth, 0), key(DType::bf16, rows, kWidth, kWidth, 0);
    Matrix value(DType::bf16, rows, kWidth, kWidth, 0);
    Matrix log_sum_exp(DType::f32, rows, kHeads, kHeads, 0);
    hidden.randomize(1), gradient.randomize(2), table.randomize(3), table_gradient.randomize(4);
    position_gradient.randomize(8);
    statistics.randomize(5), vectors.randomize(6), log_sum_exp.randomize(7);
    std::vector<int32_t> ids(static_cast<size_t>(rows));
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * 37 % 1031);
    const DeviceBuffer id_buffer = cuda_device().allocate(rows * 4, "ids");
    cuda_device().copy_to_device(id_buffer.data(), ids.data(), rows * 4);
    cuda_device().synchronize();
    const ConstTensorView numbers = id_buffer.view(DType::i32, 1, rows);
    const int32_t offsets[] = {0, static_cast<int32_t>(rows / 2), static_cast<int32_t>(rows)};
    const auto check = [&](const char* name, int64_t said, const auto& run) {
      CAPTURE(name);
      context.asked = 0;
      run();
      CHECK(context.asked <= said - cuda::MatmulPlans::kWorkspaceBytes);
      CHECK(2 * context.asked + (int64_t{1} << 20) >= said - cuda::MatmulPlans::kWorkspaceBytes);
    };
    EmbeddingBackward embedding{numbers, numbers, gradient.cuda(), table_gradient.cuda(), position_gradient.cuda()};
    EmbeddingBackward embedding_shapes = embedding;
    forget_data(embedding_shapes.out_gradient);
    forget_data(embedding_shapes.token_table_gradient);
    forget_data(embedding_shapes.position_table_gradient);
    check("embedding", operators.scratch_bytes(embedding_shapes), [&] { operators.embedding_backward(embedding); });
    const auto row = [&](Matrix& matrix, int64_t number) { return matrix.cuda().row_range(number, 1); };
    ResidualLayerNormBackward norm{.normalized_gradient = gradient.cuda(),
                                   .sum_gradient_in = {},
                                   .sum = hidden.cuda(),
                                   .mean = row(statistics, 0),
                                   .rstd = row(statistics, 1),
                                   .gamma = row(vectors, 0),
                                   .dropout = {},
                                   .sum_gradient = gradient.cuda(),
                                   .branch_gradient = {},
                                   .gamma_gradient = row(vectors, 1),
                                   .beta_gradient = row(vectors, 2)};
    ResidualLayerNormBackward norm_shapes = norm;
    forget_data(norm_shapes.normalized_gradient);
    forget_data(norm_shapes.sum_gradient);
    forget_data(norm_shapes.gamma_gradient);
    forget_data(norm_shapes.beta_gradient);
    check("norm", operators.scratch_bytes(norm_shapes), [&] { operators.residual_layernorm_backward(norm); });
    for (const int64_t heads : {kHeads, int64_t{1}}) {  // of 32 columns, and of 64: those the kernels for Hopper take
      const AttentionShape shape{.query_offsets = offsets,
                                 .key_offsets = offsets,
                                 .num_heads = heads,
                                 .head_dim = kWidth / heads,
                                 .dropout = {}};
      const TensorView sums = log_sum_exp.cuda().column_range(0, heads);
      operators.attention_forward({shape, hidden.cuda(), hidden.cuda(), hidden.cuda(), gradient.cuda(), sums});
      const AttentionBackward attention{shape, hidden.cuda(), hidden.cuda(), hidden.cuda(), gradient.cuda(),
                                        sums,  hidden.cuda(), query.cuda(),  key.cuda(),    value.cuda()};
      AttentionBackward attention_shapes = attention;
      for (ConstTensorView* view : {&attention_shapes.query, &attention_shapes.key, &attention_shapes.value,
                                    &attention_shapes.output, &attention_shapes.output_gradient})
        forget_data(*view);
      check("attention", operators.scratch_bytes(attention_shapes), [&] { operators.attention_backward(attention); });
    }
    OutputLoss loss{.hidden = hidden.cuda(),
                    .table = table.cuda(),
                    .targets = numbers,
                    .losses = row(statistics, 2),
                    .loss_sum = {},
                    .hidden_gradient = {},
                    .table_gradient = {}};
    check("loss", operators.scratch_bytes(loss), [&] { operators.output_loss(loss); });
    loss.hidden_gradient = gradient.cuda();
    loss.table_gradient = table_gradient.cuda();
    check("loss with gradients", operators.scratch_bytes(loss), [&] { operators.output_loss(loss); });
    CBTM_CUDA(cudaStreamSynchronize(context.stream));
  }
}

}  // namespace
}  // namespace cbtm
