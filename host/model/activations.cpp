#include "model/activations.h"

#include "cbtm/base/ceil_divide.h"
#include "cbtm/device/model_operators.h"

namespace cbtm {
namespace {

/// Gives out consecutive pieces of a buffer; with a null base it only counts.
class Carver {
 public:
  Carver(char* base, DType dtype) : base_(base), dtype_(dtype) {}
  TensorView take(int64_t rows, int64_t columns) { return take(rows, columns, dtype_); }
  /// Statistics and losses.
  TensorView take_float(int64_t rows, int64_t columns) { return take(rows, columns, DType::f32); }
  TensorView take(int64_t rows, int64_t columns, DType dtype) {
    TensorView view{base_ == nullptr ? nullptr : base_ + bytes_, dtype, rows, columns};
    bytes_ += round_up(rows * columns * dtype_bytes(dtype), 64);
    return view;
  }
  int64_t bytes() const { return bytes_; }

 private:
  char* base_;
  DType dtype_;
  int64_t bytes_ = 0;
};

void carve(Activations& a, Carver& carver, const ModelOperators& operators, const OptConfig& config, int64_t rows,
           Recompute recompute, DType dtype) {
  const int64_t hidden = config.hidden_size;
  const int64_t ffn = config.ffn_dim;
  const int64_t projection = config.word_embed_proj_dim;
  const int64_t saved_columns = operators.saved_activation_columns(
      config.activation_function == OptActivation::relu ? Activation::relu : Activation::gelu, dtype, ffn);
  const bool pre_norm = config.do_layer_norm_before;
  if (config.has_projections()) {
    a.token_embedding = carver.take(rows, projection);
    a.projected = carver.take(rows, projection);
    a.projected_gradient = carver.take(rows, projection);
    a.token_embedding_gradient = carver.take(rows, projection);
  }
  a.embedding = carver.take(rows, hidden);
  a.embedding_mean = carver.take_float(1, rows);
  a.embedding_rstd = carver.take_float(1, rows);
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    LayerActivations activations;
    const bool own = recompute != Recompute::layers || layer == 0;
    const LayerActivations* shared = own ? nullptr : &a.layers.front();
    if (own) {
      if (pre_norm) activations.norm1 = carver.take(rows, hidden);
      activations.qkv = carver.take(rows, 3 * hidden);
      activations.attention = carver.take(rows, hidden);
      activations.log_sum_exp = carver.take_float(rows, config.num_attention_heads);
      activations.middle = carver.take(rows, hidden);
      activations.norm2 = carver.take(rows, hidden);
    } else {
      activations = *shared;
    }
    const bool own_ffn = recompute == Recompute::nothing || layer == 0;
    activations.ffn = own_ffn ? carver.take(rows, ffn) : a.layers.front().ffn;
    if (saved_columns > 0)
      activations.ffn_saved = own_ffn ? carver.take(rows, saved_columns, DType::u8) : a.layers.front().ffn_saved;
    // What a recomputation starts from, and what the norms' backward needs, is kept for every layer.
    if (pre_norm || own) activations.output = carver.take(rows, hidden);
    if (!pre_norm) activations.normalized_output = carver.take(rows, hidden);
    activations.middle_mean = carver.take_float(1, rows);
    activations.middle_rstd = carver.take_float(1, rows);
    activations.output_mean = carver.take_float(1, rows);
    activations.output_rstd = carver.take_float(1, rows);
    a.layers.push_back(activations);
  }
  if (pre_norm) a.hidden = carver.take(rows, hidden);
  a.branch = carver.take(rows, hidden);
  a.losses = carver.take_float(1, rows);
  a.sum_gradient = carver.take(rows, hidden);
  a.branch_gradient = carver.take(rows, hidden);
  a.norm_gradient = carver.take(rows, hidden);
  a.qkv_gradient = carver.take(rows, 3 * hidden);
  a.attention_gradient = carver.take(rows, hidden);
  a.ffn_gradient = carver.take(rows, ffn);
}

}  // namespace

int64_t activation_bytes(const ModelOperators& operators, const OptConfig& config, int64_t rows, Recompute recompute,
                         DType dtype) {
  Activations counted;
  Carver counter(nullptr, dtype);
  carve(counted, counter, operators, config, rows, recompute, dtype);
  return counter.bytes();
}

Activations Activations::allocate(Device& device, const OptConfig& config, int64_t rows, Recompute recompute,
                                  DType dtype) {
  Activations activations;
  activations.buffer =
      device.allocate(activation_bytes(device.model_operators(), config, rows, recompute, dtype), "activations");
  Carver carver(static_cast<char*>(activations.buffer.data()), dtype);
  carve(activations, carver, device.model_operators(), config, rows, recompute, dtype);
  return activations;
}

}  // namespace cbtm
