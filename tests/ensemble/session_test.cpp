// Requests that come, go and wait: each gets what it gets alone, bit for bit.

#include "cbtm/ensemble/session.h"

#include <algorithm>
#include <utility>

#include "cbtm/base/error.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/model/training_model.h"
#include "cpu/cpu_device.h"
#include "tests/ensemble/golden_ensemble.h"
#include "tests/ensemble/session_check.h"
#include "tests/opt_shape.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

/// A small model with room for prompts of several pieces.
struct LongModel {
  TemporaryDirectory directory;
  explicit LongModel(bool post_norm_and_projections = false) {
    OptShape shape{
        .vocab_size = 61, .hidden_size = 24, .ffn_dim = 40, .max_position_embeddings = 1400, .word_embed_proj_dim = 24};
    if (post_norm_and_projections) {
      shape.word_embed_proj_dim = 12;
      shape.do_layer_norm_before = false;
    }
    const ModelSpec spec = shape;
    std::vector<float> parameters = initial_parameters(spec, 3);
    for (float& value : parameters) value *= 4;  // scores that differ
    write_model_checkpoint(directory.path() / "model", spec, parameters);
  }
  std::unique_ptr<NextTokenScorer> scorer(Device& device, WeightFormat weights) const {
    return model_scorer(InferenceModel::load(device, directory.path() / "model", weights));
  }
};

TEST_CASE("one model: requests that come and go at random get what each gets alone, bit for bit") {
  CpuDevice device;
  for (const bool post_norm : {false, true}) {
    const LongModel model(post_norm);
    for (const WeightFormat weights : {WeightFormat::f32, WeightFormat::bf16, WeightFormat::int8, WeightFormat::int4}) {
      CAPTURE(weight_format_name(weights));
      const MakeScorer make = [&] { return model.scorer(device, weights); };
      const auto requests = random_requests(14, 61, 1300, 7);
      const Outcome want = each_alone(make, requests);
      for (const SessionOptions& options : {SessionOptions{}, SessionOptions{.requests_max = 3, .prompt_rows = 1}}) {
        CAPTURE(options.prompt_rows);
        check_same(together(*make(), requests, options, 5), want);
      }
    }
  }
}

TEST_CASE("an ensemble: the same, with experts that come into use late") {
  CpuDevice device;
  const ExpertSet experts = golden_experts();
  for (const Mixture& mixture : {Mixture{1, 0.1, 2}, Mixture{3, 0.3, 2}}) {
    const MakeScorer make = [&] { return ensemble_scorer(device, experts, mixture, {}); };
    const auto requests = random_requests(20, experts.vocab_size(), 150, 11);
    const Outcome want = each_alone(make, requests);
    for (const int64_t prompt_rows : {1, 40, 2048})
      check_same(together(*make(), requests, {.prompt_rows = prompt_rows}, 3), want);
  }
}

TEST_CASE("caches that are full: the last request waits and is read again, and nothing else changes") {
  CpuDevice device;
  const ExpertSet experts = golden_experts();
  constexpr int64_t kPageBytes = 2 * 2 * 16 * 32 * 4;  // keys and values of two layers, 16 tokens of 32 float32
  const Mixture mixture{2, 0.3, 2};
  auto requests = random_requests(16, experts.vocab_size(), 120, 23);
  const Outcome want = each_alone([&] { return ensemble_scorer(device, experts, mixture, {}); }, requests);
  const int64_t memory = GoldenBytes().memory(2, 40 * kPageBytes);
  const auto scorer = ensemble_scorer(device, experts, mixture, {}, memory);
  Outcome got;
  RecordingScorer recording(*scorer, got.scores);
  Session session(recording, nullptr, {.prompt_rows = 256});
  for (const GenerationRequest& request : requests) session.add(request);
  while (!session.idle()) session.step();
  CHECK(session.evictions() > 0);
  for (size_t r = 0; r < requests.size(); ++r) {
    const Generated result = session.remove(static_cast<int64_t>(r));
    CHECK(result.finish == "length");
    got.ids.push_back(result.ids);
  }
  check_same(got, want);
}

TEST_CASE("a request that does not fit alone ends with an error, and the others go on") {
  CpuDevice device;
  const ExpertSet experts = golden_experts();
  constexpr int64_t kPageBytes = 2 * 2 * 16 * 32 * 4;
  const auto scorer = ensemble_scorer(device, experts, {2, 0.3, 2}, {}, GoldenBytes().memory(1, 12 * kPageBytes));
  Session session(*scorer, nullptr);
  GenerationRequest small{.prompt = {896}, .options = {.new_tokens_max = 5, .ignore_eos = true}, .on_text = {}};
  GenerationRequest large = small;
  large.prompt.assign(180, 43);
  const int64_t first = session.add(small), middle = session.add(large), last = session.add(small);
  while (!session.idle()) session.step();
  CHECK(session.remove(first).finish == "length");
  const Generated refused = session.remove(middle);
  CHECK(refused.finish == "error");
  CHECK(refused.error.find("--memory") != std::string::npos);
  CHECK(session.remove(last).finish == "length");
}

TEST_CASE("what on_text throws or removes leaves the session in order") {
  CpuDevice device;
  const ExpertSet experts = golden_experts();
  const auto scorer = ensemble_scorer(device, experts, {2, 0.1, 2}, {});
  const GenerationRequest plain{.prompt = {524, 421, 453, 539},
                                .options = {.new_tokens_max = 8, .sampling = {.greedy = true}, .ignore_eos = true},
                                .on_text = {}};
  Session alone(*scorer, &experts.tokenizer());
  const int64_t number = alone.add(plain);
  while (!alone.idle()) alone.step();
  const std::vector<int32_t> want = alone.remove(number).ids;

  Session session(*scorer, &experts.tokenizer());
  GenerationRequest thrower = plain, remover = plain, other = plain;
  int calls = 0;
  thrower.on_text = [&](const std::string&) {
    if (++calls == 2) throw Error("the reader is gone");
  };
  int64_t removed = -1;
  Generated part;
  remover.on_text = [&](const std::string&) {
    if (removed >= 0) part = session.remove(std::exchange(removed, -1));
  };
  std::string streamed;
  other.on_text = [&](const std::string& piece) { streamed += piece; };
  const int64_t first = session.add(thrower);
  removed = session.add(remover);
  const int64_t last = session.add(other);
  int thrown = 0;
  while (!session.idle()) {
    try {
      session.step();
    } catch (const Error&) {
      ++thrown;
    }
  }
  CHECK(thrown == 1);
  CHECK(session.remove(first).ids == want);
  CHECK(part.finish == "removed");
  CHECK(part.ids == std::vector<int32_t>(want.begin(), want.begin() + static_cast<int64_t>(part.ids.size())));
  const Generated all = session.remove(last);
  CHECK(all.ids == want);
  CHECK(streamed == all.text);
}

TEST_CASE("a sequence that was read but not continued is read again, to the same scores") {
  CpuDevice device;
  const ExpertSet experts = golden_experts();
  const auto scorer = ensemble_scorer(device, experts, {2, 0.1, 2}, {});
  const std::vector<int64_t> both = {scorer->open({524, 421, 453, 539}), scorer->open({896})};
  REQUIRE(scorer->read(both, 512) == both);
  std::vector<float> before, after;
  scorer->score(both, before);
  scorer->append(both[0], 7);
  REQUIRE(scorer->read(both, 512) == both);
  scorer->score(both, after);
  const auto vocab = static_cast<int64_t>(experts.vocab_size());
  CHECK(std::equal(after.begin() + vocab, after.end(), before.begin() + vocab));
  CHECK_FALSE(std::equal(after.begin(), after.begin() + vocab, before.begin()));
}

TEST_CASE("each request streams its own text, stops at its own strings, and may be removed at any time") {
  CpuDevice device;
  const ExpertSet experts = golden_experts();
  const auto scorer = ensemble_scorer(device, experts, {2, 0.1, 2}, {});
  Session session(*scorer, &experts.tokenizer());
  std::string streamed[3];
  GenerationRequest request{.prompt = {524, 421, 453, 539},
                            .options = {.new_tokens_max = 20, .sampling = {.greedy = true}, .ignore_eos = true}};
  request.on_text = [&](const std::string& piece) { streamed[0] += piece; };
  const int64_t whole = session.add(request);
  while (!session.idle()) session.step();
  const Generated all = session.remove(whole);
  CHECK(streamed[0] == all.text);
  request.options.stop = {all.text.substr(6, 4)};
  request.on_text = [&](const std::string& piece) { streamed[1] += piece; };
  const int64_t stopped = session.add(request);
  request.options.stop.clear();
  request.on_text = [&](const std::string& piece) { streamed[2] += piece; };
  const int64_t removed = session.add(request);
  for (int step = 0; step < 3; ++step) session.step();
  const Generated part = session.remove(removed);
  CHECK(part.finish == "removed");
  CHECK(part.ids == std::vector<int32_t>(all.ids.begin(), all.ids.begin() + 3));
  CHECK(all.text.starts_with(streamed[2]));
  while (!session.idle()) session.step();
  const Generated cut = session.remove(stopped);
  CHECK(cut.finish == "stop");
  CHECK(cut.text == all.text.substr(0, all.text.find(all.text.substr(6, 4))));
  CHECK(streamed[1] == cut.text);
  GenerationRequest none = request;
  none.options.new_tokens_max = 0;
  const int64_t nothing = session.add(none);
  CHECK(session.step() == std::vector<int64_t>{nothing});
  CHECK(session.remove(nothing).finish == "length");
}

}  // namespace
}  // namespace cbtm
