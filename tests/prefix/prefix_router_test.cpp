// A prefix router against products of probabilities that are computed from logits here.

#include "cbtm/prefix/prefix_router.h"

#include <doctest/doctest.h>

#include <cmath>
#include <fstream>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/philox.h"
#include "cbtm/device/device.h"
#include "cbtm/model/inference.h"
#include "cbtm/model/training_model.h"
#include "tests/opt_shape.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

constexpr int64_t kClusters = 3, kPrefix = 12;

/// Models of random weights, far enough from each other that their likelihoods differ by some nats.
class RandomRouter {
 public:
  RandomRouter() : tokenizer_(Tokenizer::load(std::filesystem::path(CBTM_TEST_DATA) / "tokenizer/opt-tiny")) {
    const ModelSpec spec = OptShape{.vocab_size = 1264, .max_position_embeddings = 16};
    std::vector<std::vector<float>> weights;
    for (uint64_t j = 0; j < kClusters; ++j) {
      weights.push_back(initial_parameters(spec, 100 + j));
      for (float& weight : weights.back()) weight *= 8;
    }
    AtomicDirectory output(directory());
    write_prefix_router(output.path(),
                        {.prefix_tokens = kPrefix, .spec = spec, .weights = weights, .tokenizer = tokenizer_});
    output.commit();
    router = PrefixRouter::load(directory(), device.get());
  }

  std::filesystem::path directory() const { return files_ / "router"; }
  const Tokenizer& tokenizer() const { return tokenizer_; }

  /// −Σ ln softmax(logits)[token], summed in double, of the first tokens given the start token.
  double surprise(int64_t cluster, std::span<const int32_t> text) const {
    const auto model = InferenceModel::load(*device, directory() / "models" / ("00" + std::to_string(cluster)));
    std::vector<int32_t> ids = {tokenizer_.eos_id()};
    ids.insert(ids.end(), text.begin(), text.begin() + std::min<std::ptrdiff_t>(std::ssize(text), kPrefix));
    const auto tokens = static_cast<int32_t>(ids.size()) - 1;
    if (tokens == 0) return 0;
    const std::vector<int32_t> offsets = {0, tokens};
    const auto vocab = static_cast<size_t>(model->vocab_size());
    std::vector<float> logits(static_cast<size_t>(tokens) * vocab);
    model->logits({std::span(ids).first(static_cast<size_t>(tokens)), offsets}, logits);
    double sum = 0;
    for (int32_t t = 0; t < tokens; ++t) {
      const float* const row = logits.data() + static_cast<size_t>(t) * vocab;
      double total = 0;
      for (size_t v = 0; v < vocab; ++v) total += std::exp(static_cast<double>(row[v]));
      sum += std::log(total) - static_cast<double>(row[ids[static_cast<size_t>(t) + 1]]);
    }
    return sum;
  }

  std::string_view text_of(int32_t id) const {
    return tokenizer_.is_special(id) ? std::string_view() : tokenizer_.bytes_of(id);
  }

 private:
  TemporaryDirectory files_;
  Tokenizer tokenizer_;

 public:
  std::unique_ptr<Device> device = make_cpu_device();
  std::unique_ptr<PrefixRouter> router;
};

/// Sums of at most 12 losses of about 10 nats, each of which float32 logits and sums give to some 1e-5.
constexpr double kTolerance = 1e-3;

std::vector<std::vector<int32_t>> random_texts() {
  PhiloxStream random(5, 0);
  std::vector<std::vector<int32_t>> texts;
  for (const size_t length : {0, 1, 2, 7, 11, 12, 13, 40}) {
    texts.emplace_back();
    for (size_t i = 0; i < length; ++i) texts.back().push_back(static_cast<int32_t>(4 + random.next_below(1200)));
  }
  return texts;
}

TEST_CASE("likelihoods are those of the models; weights are the posterior, with the largest kept") {
  const RandomRouter own;
  const std::vector<std::vector<int32_t>> texts = random_texts();
  const std::vector<std::span<const int32_t>> views(texts.begin(), texts.end());
  const std::vector<double> got = own.router->negative_log_likelihoods(views);
  for (size_t t = 0; t < texts.size(); ++t) {
    CAPTURE(texts[t].size());
    std::vector<double> want;
    for (int64_t j = 0; j < kClusters; ++j) want.push_back(own.surprise(j, texts[t]));
    for (size_t j = 0; j < kClusters; ++j) CHECK(std::abs(got[t * kClusters + j] - want[j]) <= kTolerance);

    const std::unique_ptr<RoutingContext> context = own.router->context();
    for (const int32_t id : texts[t]) context->append_token(id, own.text_of(id));
    for (const int64_t top_k : {1, 2, 3}) {
      std::vector<double> weights(kClusters), posterior(kClusters);
      context->weights({.top_k = top_k, .temperature = own.router->defaults().temperature}, {}, weights);
      std::vector<size_t> order = {0, 1, 2};
      std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return want[a] < want[b]; });
      double sum = 0;
      for (int64_t i = 0; i < top_k; ++i)
        sum += posterior[order[static_cast<size_t>(i)]] = std::exp(-want[order[static_cast<size_t>(i)]]);
      // An error e of each logarithm changes a ratio of probabilities by a factor of exp(2 e) at most.
      for (size_t j = 0; j < kClusters; ++j) CHECK(std::abs(weights[j] - posterior[j] / sum) <= 3 * kTolerance);
    }
  }
}

TEST_CASE("distances along a text: as of growing contexts; special tokens are no text; text and its tokens are one") {
  const RandomRouter own;
  std::vector<std::vector<int32_t>> texts = random_texts();
  texts.push_back({2, 300, 2, 1, 500, 600});  // </s> and <pad> among them
  std::vector<std::vector<float>> rows;
  std::vector<KnownText> known;
  rows.reserve(texts.size());
  for (const std::vector<int32_t>& text : texts) {
    rows.emplace_back((text.size() + 1) * kClusters);
    known.push_back({text, rows.back()});
  }
  own.router->distances_along(
      known, [&](int32_t id) { return own.text_of(id); }, [] {});
  for (size_t t = 0; t < texts.size(); ++t) {
    const std::unique_ptr<RoutingContext> context = own.router->context();
    for (size_t n = 0; n <= texts[t].size(); ++n) {
      if (n > 0) context->append_token(texts[t][n - 1], own.text_of(texts[t][n - 1]));
      std::vector<double> now(kClusters);
      context->squared_distances(now);
      for (size_t j = 0; j < kClusters; ++j)
        CHECK(std::abs(now[j] - static_cast<double>(rows[t][n * kClusters + j])) <= kTolerance);
    }
  }
  const std::vector<int32_t> without = {300, 500, 600};
  for (int64_t j = 0; j < kClusters; ++j)
    CHECK(std::abs(own.surprise(j, without) -
                   static_cast<double>(rows.back()[6 * kClusters + static_cast<size_t>(j)])) <= kTolerance);

  const std::string text = "The king sat down. \xe2\x82\xac";
  const std::vector<int32_t> ids = own.tokenizer().encode(text);
  const std::unique_ptr<RoutingContext> by_text = own.router->context(), by_token = own.router->context();
  for (const char byte : text) by_text->append({&byte, 1});
  for (const int32_t id : ids) by_token->append_token(id, own.text_of(id));
  std::vector<double> a(kClusters), b(kClusters);
  by_text->squared_distances(a);
  by_token->squared_distances(b);
  CHECK(a == b);
}

TEST_CASE("saved with another temperature it is the same router; damage is named") {
  const RandomRouter own;
  const TemporaryDirectory directory;
  own.router->save(directory / "copy", {.temperature = 20});
  const auto copy = PrefixRouter::load(directory / "copy", own.device.get());
  CHECK(copy->content_hash() == own.router->content_hash());
  CHECK(copy->defaults().temperature == 20);
  CHECK(own.router->defaults().temperature == 1);
  const std::vector<int32_t> text = {300, 400, 500};
  const std::span<const int32_t> view = text;
  CHECK(copy->negative_log_likelihoods({&view, 1}) == own.router->negative_log_likelihoods({&view, 1}));

  const auto without_device = PrefixRouter::load(directory / "copy", nullptr);
  CHECK(without_device->clusters() == kClusters);
  CHECK_THROWS_WITH_AS(without_device->context(), doctest::Contains("have no device"), Error);

  std::filesystem::rename(directory / "copy/models/000", directory / "copy/models/zero");
  std::filesystem::rename(directory / "copy/models/001", directory / "copy/models/000");
  std::filesystem::rename(directory / "copy/models/zero", directory / "copy/models/001");
  CHECK_THROWS_WITH_AS(PrefixRouter::load(directory / "copy", nullptr),
                       doctest::Contains("models/000: is not the model that"), Error);
  own.router->save(directory / "other");
  std::ofstream(directory / "other/router.json") << R"({"format": 1, "kind": "prefix", "prefix_tokens": 0})";
  CHECK_THROWS_WITH_AS(PrefixRouter::load(directory / "other", nullptr), doctest::Contains("'prefix_tokens'"), Error);
}

}  // namespace
}  // namespace cbtm
