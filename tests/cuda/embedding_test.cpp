// Embeddings of the CUDA device against the CPU device.

#include "cbtm/device/model_operators.h"
#include "tests/cuda/attention_operands.h"

namespace cbtm {
namespace {

/// Row numbers on both devices.
struct Numbers {
  std::vector<int32_t> values;
  DeviceBuffer buffer;

  explicit Numbers(std::vector<int32_t> values_) : values(std::move(values_)) {
    buffer = cuda_device().allocate(static_cast<int64_t>(values.size()) * 4, "row numbers");
    cuda_device().copy_to_device(buffer.data(), values.data(), static_cast<int64_t>(values.size()) * 4);
  }
  ConstTensorView cpu() { return view_of(values.data(), 1, static_cast<int64_t>(values.size())); }
  ConstTensorView cuda() { return buffer.view(DType::i32, 1, static_cast<int64_t>(values.size())); }
};

struct Shape {
  int64_t rows, width, stride, first_column, vocab;
};
const Shape kShapes[] = {{1, 1, 1, 0, 1},    {31, 7, 9, 1, 5},        {32, 64, 64, 0, 50272}, {33, 768, 768, 0, 17},
                         {97, 36, 41, 3, 3}, {300, 600, 600, 0, 900}, {0, 8, 8, 0, 4}};

std::vector<int32_t> drawn_ids(int64_t rows, int64_t vocab) {
  PhiloxStream stream(3, 1);
  std::vector<int32_t> ids;
  // Every second one is the same, as frequent words are; the rest are anywhere.
  for (int64_t r = 0; r < rows; ++r)
    ids.push_back(static_cast<int32_t>(
        r % 2 == 0 ? vocab / 2 : static_cast<int64_t>(stream.next_below(static_cast<uint64_t>(vocab)))));
  return ids;
}

TEST_CASE("embedding forward equals the CPU's, rounded") {
  struct Types {
    DType out, table;
  };
  for (const Types types : {Types{DType::f32, DType::f32},
                            {DType::f32, DType::bf16},
                            {DType::f32, DType::f16},
                            {DType::bf16, DType::f32},
                            {DType::bf16, DType::bf16},
                            {DType::f16, DType::f16},
                            {DType::f16, DType::f32}}) {
    for (const Shape& s : kShapes) {
      CAPTURE(dtype_name(types.out));
      CAPTURE(dtype_name(types.table));
      CAPTURE(s.rows);
      CAPTURE(s.width);
      Numbers ids(drawn_ids(s.rows, s.vocab));
      std::vector<int32_t> places;
      for (int64_t r = 0; r < s.rows; ++r) places.push_back(static_cast<int32_t>(r % 40));
      Numbers positions(places);
      Matrix tokens(types.table, s.vocab, s.width, s.stride, s.first_column),
          table(types.table, 40, s.width, s.stride, s.first_column);
      Matrix out(types.out, s.rows, s.width, s.stride, s.first_column);
      tokens.randomize(1);
      table.randomize(2);
      for (const int kind : {0, 1, 2, 3}) {  // both, tokens, positions, positions added to what is there
        CAPTURE(kind);
        out.randomize(3);
        const auto arguments = [&](bool cuda) {
          return EmbeddingForward{.ids = cuda ? ids.cuda() : ids.cpu(),
                                  .token_table = kind >= 2 ? ConstTensorView()
                                                 : cuda    ? tokens.cuda()
                                                           : tokens.cpu(),
                                  .positions = cuda ? positions.cuda() : positions.cpu(),
                                  .position_table = kind == 1 ? ConstTensorView()
                                                    : cuda    ? table.cuda()
                                                              : table.cpu(),
                                  .out = cuda ? out.cuda() : out.cpu(),
                                  .accumulate = kind == 3};
        };
        bool outside_kept = true;
        cuda_device().model_operators().embedding_forward(arguments(true));
        const std::vector<float> got = out.from_cuda(&outside_kept);
        CHECK(outside_kept);
        cpu_device().model_operators().embedding_forward(arguments(false));
        CHECK(got == decoded(encoded(out.from_cpu(), types.out), types.out));
      }
    }
  }
}

TEST_CASE("embedding backward equals the CPU's, whatever repeats, and its bits repeat") {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    for (const Shape& s : kShapes) {
      CAPTURE(dtype_name(dtype));
      CAPTURE(s.rows);
      CAPTURE(s.width);
      Numbers ids(drawn_ids(s.rows, s.vocab));
      std::vector<int32_t> places;
      for (int64_t r = 0; r < s.rows; ++r) places.push_back(static_cast<int32_t>(2 + r % 70));
      Numbers positions(places);
      Matrix gradient(dtype, s.rows, s.width, s.stride, s.first_column);
      gradient.randomize(1);
      for (const int kind : {0, 1, 2}) {  // both tables, tokens alone, positions alone
        CAPTURE(kind);
        Matrix tokens(DType::f32, s.vocab, s.width, s.stride, s.first_column),
            table(DType::f32, 72, s.width, s.stride, s.first_column);
        tokens.randomize(2);
        table.randomize(3);
        const auto arguments = [&](bool cuda) {
          return EmbeddingBackward{.ids = cuda ? ids.cuda() : ids.cpu(),
                                   .positions = cuda ? positions.cuda() : positions.cpu(),
                                   .out_gradient = cuda ? gradient.cuda() : gradient.cpu(),
                                   .token_table_gradient = kind == 2 ? TensorView()
                                                           : cuda    ? tokens.cuda()
                                                                     : tokens.cpu(),
                                   .position_table_gradient = kind == 1 ? TensorView()
                                                              : cuda    ? table.cuda()
                                                                        : table.cpu()};
        };
        cuda_device().model_operators().embedding_backward(arguments(true));
        bool outside_kept = true;
        const std::vector<float> got_tokens = tokens.from_cuda(&outside_kept),
                                 got_table = table.from_cuda(&outside_kept);
        CHECK(outside_kept);
        tokens.upload();
        table.upload();
        cuda_device().model_operators().embedding_backward(arguments(true));
        CHECK(got_tokens == tokens.from_cuda());
        CHECK(got_table == table.from_cuda());
        cpu_device().model_operators().embedding_backward(arguments(false));
        // At most rows + 1 numbers of at most 1 are added: half a unit each, of sums up to that.
        const double count = static_cast<double>(s.rows + 1);
        CHECK(error_in_tolerances(got_tokens, tokens.from_cpu(),
                                  std::vector<double>(got_tokens.size(), 2 * 0x1p-24 * count * count / 2)) <= 1);
        CHECK(error_in_tolerances(got_table, table.from_cpu(),
                                  std::vector<double>(got_table.size(), 0x1p-24 * 6 * 6)) <= 1);
      }
    }
  }
}

}  // namespace
}  // namespace cbtm
