// Operators against values that an independent float64 implementation computed.

#include <cmath>

#include "cbtm/base/json.h"
#include "cbtm/base/philox.h"
#include "cbtm/device/model_operators.h"
#include "cbtm/device/optimizer_operators.h"
#include "cbtm/tensor_file/tensor_file.h"
#include "tests/device/operands.h"

namespace cbtm {
namespace {

const std::filesystem::path kOperators = std::filesystem::path(CBTM_TEST_DATA) / "opt/ops";

template <typename Check>
void for_cases(const std::string& operation, const Check& check) {
  const Json manifest = read_json_file(kOperators / "manifest.json");
  int found = 0;
  for (const auto& [name, entry] : manifest["cases"].items()) {
    if (entry["op"] != operation) continue;
    CAPTURE(name);
    const std::string file = entry["file"];
    check(name, entry, TensorFile::open(kOperators / file));
    ++found;
  }
  CHECK(found > 0);
}

TEST_CASE("layernorm equals the goldens") {
  for_cases("layernorm", [](const std::string&, const Json& entry, const TensorFile& file) {
    Device& device = device_under_test();
    const int64_t rows = entry["rows"], width = entry["cols"];
    auto x = file.at("x").values<float>(), gamma = file.at("weight").values<float>(),
         beta = file.at("bias").values<float>(), dy = file.at("dy").values<float>();
    std::vector<float> y(x.size()), mean(static_cast<size_t>(rows)), rstd(mean), dx(x.size()), dgamma(gamma.size()),
        dbeta(beta.size());
    device.model_operators().residual_layernorm_forward({.residual = as_matrix(x, rows),
                                                         .branch = {},
                                                         .dropout = {},
                                                         .gamma = as_matrix(gamma, 1),
                                                         .beta = as_matrix(beta, 1),
                                                         .sum = {},
                                                         .normalized = as_matrix(y, rows),
                                                         .mean = as_matrix(mean, 1),
                                                         .rstd = as_matrix(rstd, 1)});
    device.model_operators().residual_layernorm_backward({.normalized_gradient = as_matrix(dy, rows),
                                                          .sum_gradient_in = {},
                                                          .sum = as_matrix(x, rows),
                                                          .mean = as_matrix(mean, 1),
                                                          .rstd = as_matrix(rstd, 1),
                                                          .gamma = as_matrix(gamma, 1),
                                                          .dropout = {},
                                                          .sum_gradient = as_matrix(dx, rows),
                                                          .branch_gradient = {},
                                                          .gamma_gradient = as_matrix(dgamma, 1),
                                                          .beta_gradient = as_matrix(dbeta, 1)});
    // The mean is off by the rounding of values of x, which the difference to it takes over.
    const double factor = std::max(1.0, largest_magnitude(x) * largest_magnitude(rstd));
    const double forward = sum_error(width) * factor, backward = sum_error(width + rows) * factor;
    CHECK(width == static_cast<int64_t>(gamma.size()));
    CHECK(relative_error(y, file.at("y").values<float>()) <= forward);
    CHECK(relative_error(mean, file.at("mean").values<float>()) <= forward);
    CHECK(relative_error(rstd, file.at("rstd").values<float>()) <= forward);
    CHECK(relative_error(dx, file.at("dx").values<float>()) <= backward);
    CHECK(relative_error(dgamma, file.at("dweight").values<float>()) <= backward);
    CHECK(relative_error(dbeta, file.at("dbias").values<float>()) <= backward);
  });
}

TEST_CASE("both kinds of gelu, forward and backward, equal the goldens") {
  for (const Activation activation : {Activation::gelu, Activation::gelu_tanh}) {
    CAPTURE(static_cast<int>(activation));
    const TensorFile file =
        TensorFile::open(std::filesystem::path(CBTM_TEST_DATA) / "families/ops" /
                         (activation == Activation::gelu ? "gelu_0.safetensors" : "gelu_1.safetensors"));
    ModelOperators& operators = device_under_test().model_operators();
    auto x = file.at("x").values<float>(), dy = file.at("dy").values<float>();
    const auto rows = static_cast<int64_t>(x.size());
    std::vector<float> one = {1}, y(x.size()), dx(x.size());
    const int64_t saved_columns = operators.saved_activation_columns(activation, DType::f32, 1);
    std::vector<uint8_t> saved(static_cast<size_t>(rows * saved_columns));
    const TensorView kept{saved.data(), DType::u8, rows, saved_columns};
    operators.linear_forward({.input = as_matrix(x, rows),
                              .weight = as_matrix(one, 1),
                              .bias = {},
                              .activation = activation,
                              .output = as_matrix(y, rows),
                              .saved = kept});
    operators.linear_backward({.input = as_matrix(y, rows),
                               .weight = as_matrix(one, 1),
                               .output_gradient = as_matrix(dy, rows),
                               .input_gradient = as_matrix(dx, rows),
                               .input_activation = activation,
                               .input_saved = kept,
                               .weight_gradient = {},
                               .bias_gradient = {}});
    CHECK(relative_error(y, file.at("y").values<float>()) <= sum_error(1));
    CHECK(relative_error(dx, file.at("dx").values<float>()) <= sum_error(8));
  }
}

TEST_CASE("two linear layers with relu equal the golden mlp") {
  for_cases("mlp", [](const std::string&, const Json& entry, const TensorFile& file) {
    Device& device = device_under_test();
    const int64_t rows = entry["rows"], hidden = entry["hidden"], ffn = entry["ffn"];
    auto x = file.at("x").values<float>(), w1 = file.at("fc1.weight").values<float>(),
         b1 = file.at("fc1.bias").values<float>(), w2 = file.at("fc2.weight").values<float>(),
         b2 = file.at("fc2.bias").values<float>(), dy = file.at("dy").values<float>();
    std::vector<float> h(static_cast<size_t>(rows * ffn)), y(x.size()), dh(h.size()), dx(x.size());
    std::vector<float> dw1(w1.size()), db1(b1.size()), dw2(w2.size()), db2(b2.size());
    device.model_operators().linear_forward(
        {as_matrix(x, rows), as_matrix(w1, ffn), as_matrix(b1, 1), Activation::relu, as_matrix(h, rows), {}});
    device.model_operators().linear_forward(
        {as_matrix(h, rows), as_matrix(w2, hidden), as_matrix(b2, 1), Activation::none, as_matrix(y, rows), {}});
    device.model_operators().linear_backward({.input = as_matrix(h, rows),
                                              .weight = as_matrix(w2, hidden),
                                              .output_gradient = as_matrix(dy, rows),
                                              .input_gradient = as_matrix(dh, rows),
                                              .input_activation = Activation::relu,
                                              .weight_gradient = as_matrix(dw2, hidden),
                                              .bias_gradient = as_matrix(db2, 1)});
    device.model_operators().linear_backward({.input = as_matrix(x, rows),
                                              .weight = as_matrix(w1, ffn),
                                              .output_gradient = as_matrix(dh, rows),
                                              .input_gradient = as_matrix(dx, rows),
                                              .weight_gradient = as_matrix(dw1, ffn),
                                              .bias_gradient = as_matrix(db1, 1)});
    // Through two layers, forward or backward; parameters' gradients are summed over the rows then.
    const double forward = sum_error(hidden + ffn), backward = sum_error(hidden + ffn + rows);
    CHECK(relative_error(y, file.at("y").values<float>()) <= forward);
    CHECK(relative_error(dx, file.at("dx").values<float>()) <= backward);
    CHECK(relative_error(dw1, file.at("d.fc1.weight").values<float>()) <= backward);
    CHECK(relative_error(db1, file.at("d.fc1.bias").values<float>()) <= backward);
    CHECK(relative_error(dw2, file.at("d.fc2.weight").values<float>()) <= backward);
    CHECK(relative_error(db2, file.at("d.fc2.bias").values<float>()) <= backward);
  });
}

/// [batch, heads, tokens, head_dim] -> [batch * tokens, heads * head_dim].
std::vector<float> token_major(const StoredTensor& tensor) {
  const std::vector<float> in = tensor.values<float>();
  const int64_t batch = tensor.shape[0], heads = tensor.shape[1], tokens = tensor.shape[2];
  const int64_t dim = tensor.shape.size() > 3 ? tensor.shape[3] : 1;
  std::vector<float> out(in.size());
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t h = 0; h < heads; ++h)
      for (int64_t t = 0; t < tokens; ++t)
        for (int64_t d = 0; d < dim; ++d)
          out[static_cast<size_t>(((b * tokens + t) * heads + h) * dim + d)] =
              in[static_cast<size_t>(((b * heads + h) * tokens + t) * dim + d)];
  return out;
}

TEST_CASE("attention equals the goldens") {
  for_cases("attention", [](const std::string&, const Json& entry, const TensorFile& file) {
    Device& device = device_under_test();
    const int64_t batch = entry["batch"], heads = entry["heads"], dim = entry["head_dim"], queries = entry["tq"],
                  keys = entry["tk"];
    auto q = token_major(file.at("q")), k = token_major(file.at("k")), v = token_major(file.at("v")),
         dout = token_major(file.at("do"));
    std::vector<float> o(q.size()), lse(static_cast<size_t>(batch * queries * heads)), dq(q.size()), dk(k.size()),
        dv(v.size());
    std::vector<int32_t> query_offsets, key_offsets;
    for (int64_t b = 0; b <= batch; ++b) {
      query_offsets.push_back(static_cast<int32_t>(b * queries));
      key_offsets.push_back(static_cast<int32_t>(b * keys));
    }
    const AttentionShape shape{.query_offsets = query_offsets,
                               .key_offsets = key_offsets,
                               .num_heads = heads,
                               .head_dim = dim,
                               .scale = 1 / std::sqrt(static_cast<float>(dim)),
                               .dropout = {}};
    device.model_operators().attention_forward({shape, as_matrix(q, batch * queries), as_matrix(k, batch * keys),
                                                as_matrix(v, batch * keys), as_matrix(o, batch * queries),
                                                as_matrix(lse, batch * queries)});
    device.model_operators().attention_backward(
        {shape, as_matrix(q, batch * queries), as_matrix(k, batch * keys), as_matrix(v, batch * keys),
         as_matrix(o, batch * queries), as_matrix(lse, batch * queries), as_matrix(dout, batch * queries),
         as_matrix(dq, batch * queries), as_matrix(dk, batch * keys), as_matrix(dv, batch * keys)});
    // Packed sequences have no masked keys: of the case that has some, only the unmasked first sequence is comparable.
    const auto comparable = [&](std::vector<float> values, int64_t tokens) {
      if (entry.contains("key_lengths"))
        values.resize(static_cast<size_t>(tokens) * values.size() / static_cast<size_t>(batch * tokens));
      return values;
    };
    // The gradient of a score is a difference of such products; of a query with one key it is 0.
    const double cancelling = largest_magnitude(dout) * largest_magnitude(v) * static_cast<double>(shape.scale);
    const double forward = sum_error(dim + keys), backward = sum_error(2 * dim + keys + queries);
    CHECK(relative_error(comparable(o, queries), comparable(token_major(file.at("o")), queries)) <= forward);
    CHECK(relative_error(comparable(lse, queries), comparable(token_major(file.at("lse")), queries)) <= forward);
    CHECK(relative_error(comparable(dq, queries), comparable(token_major(file.at("dq")), queries),
                         cancelling * largest_magnitude(k)) <= backward);
    CHECK(relative_error(comparable(dk, keys), comparable(token_major(file.at("dk")), keys),
                         cancelling * largest_magnitude(q)) <= backward);
    CHECK(relative_error(comparable(dv, keys), comparable(token_major(file.at("dv")), keys)) <= backward);
  });
}

TEST_CASE("output layer and cross-entropy equal the goldens") {
  for_cases("xent", [](const std::string&, const Json& entry, const TensorFile& file) {
    Device& device = device_under_test();
    const int64_t rows = entry["rows"], vocab = entry["vocab"];
    auto logits = file.at("logits").values<float>();
    auto targets = file.at("targets").values<int32_t>();
    const auto scored =
        static_cast<float>(std::count_if(targets.begin(), targets.end(), [](int32_t t) { return t != -100; }));
    std::vector<float> identity(static_cast<size_t>(vocab * vocab)), losses(static_cast<size_t>(rows)),
        dlogits(logits.size()), dtable(identity.size());
    for (int64_t i = 0; i < vocab; ++i) identity[static_cast<size_t>(i * vocab + i)] = 1;
    double loss_sum = 0;
    device.model_operators().output_loss({.hidden = as_matrix(logits, rows),
                                          .table = as_matrix(identity, vocab),
                                          .targets = view_of(targets.data(), 1, rows),
                                          .losses = as_matrix(losses, 1),
                                          .loss_sum = view_of(&loss_sum, 1, 1),
                                          .gradient_scale = 1 / scored,
                                          .hidden_gradient = as_matrix(dlogits, rows),
                                          .table_gradient = as_matrix(dtable, vocab)});
    CHECK(std::abs(loss_sum / static_cast<double>(scored) - file.at("loss").values<double>()[0]) <=
          sum_error(vocab) * file.at("loss").values<double>()[0]);
    CHECK(relative_error(dlogits, file.at("dlogits").values<float>()) <= sum_error(vocab));
    std::vector<float> forward_only(losses.size());
    device.model_operators().output_loss({.hidden = as_matrix(logits, rows),
                                          .table = as_matrix(identity, vocab),
                                          .targets = view_of(targets.data(), 1, rows),
                                          .losses = as_matrix(forward_only, 1),
                                          .loss_sum = {},
                                          .hidden_gradient = {},
                                          .table_gradient = {}});
    CHECK(relative_error(forward_only, losses) <= sum_error(vocab));
  });
}

TEST_CASE("gradient norm and adamw equal the goldens") {
  for_cases("adamw", [](const std::string&, const Json& entry, const TensorFile& file) {
    Device& device = device_under_test();
    auto w = file.at("w0").values<float>();
    std::vector<float> m(w.size()), v(w.size());
    for (int step = 1; step <= entry["steps"].get<int>(); ++step) {
      auto g = file.at("g" + std::to_string(step)).values<float>();
      double square_sum = 0;
      device.optimizer_operators().gradient_square_sum(as_matrix(g, 1), view_of(&square_sum, 1, 1));
      if (const StoredTensor* norm = file.find("norm" + std::to_string(step)))
        CHECK(std::abs(std::sqrt(square_sum) - norm->values<double>()[0]) <=
              sum_error(static_cast<int64_t>(w.size())) * norm->values<double>()[0]);
      device.optimizer_operators().adamw(
          {.weights = as_matrix(w, 1),
           .gradients = as_matrix(g, 1),
           .first_moments = as_matrix(m, 1),
           .second_moments = as_matrix(v, 1),
           .gradient_square_sum = view_of(&square_sum, 1, 1),
           .decayed_count = static_cast<int64_t>(w.size()),
           .step = step,
           .learning_rate = entry["lr"],
           .beta1 = entry["betas"][0],
           .beta2 = entry["betas"][1],
           .epsilon = entry["eps"],
           .weight_decay = entry["weight_decay"],
           .clip_norm = entry["clip_norm"].is_null() ? 0.0f : entry["clip_norm"].get<float>()});
      CHECK(relative_error(w, file.at("w" + std::to_string(step)).values<double>()) <= sum_error(4 * step));
      // The operator has the betas as float32 numbers, which changes 1 - beta by u at most.
      const double beta1 = entry["betas"][0], beta2 = entry["betas"][1];
      const double first_error = sum_error(4 * step) + 0x1p-24 / (1 - beta1),
                   second_error = sum_error(4 * step) + 0x1p-24 / (1 - beta2);
      CHECK(relative_error(m, file.at("m" + std::to_string(step)).values<double>()) <= first_error);
      CHECK(relative_error(v, file.at("v" + std::to_string(step)).values<double>()) <= second_error);
      for (const float gradient : g) CHECK(gradient == 0);
    }
  });
}

TEST_CASE("a step with a gradient that is not finite changes nothing but the gradient") {
  std::vector<float> w = {1, 2}, g = {NAN, 1}, m = {0.5f, 0.5f}, v = {0.5f, 0.5f};
  double square_sum = 0;
  device_under_test().optimizer_operators().gradient_square_sum(as_matrix(g, 1), view_of(&square_sum, 1, 1));
  CHECK(std::isnan(square_sum));
  device_under_test().optimizer_operators().adamw({.weights = as_matrix(w, 1),
                                                   .gradients = as_matrix(g, 1),
                                                   .first_moments = as_matrix(m, 1),
                                                   .second_moments = as_matrix(v, 1),
                                                   .gradient_square_sum = view_of(&square_sum, 1, 1),
                                                   .decayed_count = 2,
                                                   .learning_rate = 1});
  CHECK(w == std::vector<float>{1, 2});
  CHECK(m == std::vector<float>{0.5f, 0.5f});
  CHECK(g == std::vector<float>{0, 0});
}

TEST_CASE("Philox gives the known answers") {
  for (const Json& known : read_json_file(kOperators / "philox.json")) {
    const auto counter = known["counter"].get<std::vector<uint32_t>>();
    const auto key = known["key"].get<std::vector<uint32_t>>();
    const PhiloxCounter got =
        philox({{counter[0], counter[1], counter[2], counter[3]}}, key[0] | (uint64_t{key[1]} << 32));
    CHECK(std::vector<uint32_t>(got.word, got.word + 4) == known["output"].get<std::vector<uint32_t>>());
  }
}

}  // namespace
}  // namespace cbtm
