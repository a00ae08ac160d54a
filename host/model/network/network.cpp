#include "model/network/pass.h"

namespace cbtm {

void forward(const Pass& pass) {
  embed(pass);
  for (int64_t layer = 0; layer < pass.spec.layers(); ++layer) block_forward(pass, layer);
}

void backward(const Pass& pass, const std::function<void(int64_t layer)>& block_done) {
  for (int64_t layer = pass.spec.layers(); layer-- > 0;) {
    block_backward(pass, layer);
    block_done(layer);
  }
  if (pass.spec.pre_norm()) first_norm_backward(pass);
  embed_backward(pass);
  pass.operators().finish_backward();
}

}  // namespace cbtm
