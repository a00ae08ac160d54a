// What requests share: prompts that begin alike, and experts that a reload has not changed.

#include <algorithm>
#include <thread>

#include "cbtm/base/error.h"
#include "tests/serve/served_run.h"

namespace cbtm {
namespace {

/// Token ids that are words of the tiny vocabulary, `count` of them, then `last`.
Json prompt_of(int count, int last) {
  Json ids = Json::array();
  for (int t = 0; t < count; ++t) ids.push_back(10 + t * 7 % 40);
  ids.push_back(last);
  return ids;
}

Json request_of(const Json& prompt, int seed = 3) {
  return {{"prompt", prompt}, {"max_tokens", 6}, {"seed", seed}, {"ignore_eos", true}, {"logprobs", 1}};
}

int64_t cached_tokens(const Json& reply) { return reply["usage"]["prompt_tokens_details"]["cached_tokens"]; }

TEST_CASE("a prompt that begins like an earlier one is not read again, and the text is the same") {
  const ServedRun with({"--topk", "all"}), without({"--topk", "all", "--prompt-cache", "0"});
  for (const char* model : {"ensemble", "expert-001", "baseline"}) {
    CAPTURE(model);
    for (int last = 50; last < 53; ++last) {
      Json body = request_of(prompt_of(40, last));
      body["model"] = model;
      const Json want = without.complete(body), got = with.complete(body);
      CHECK(got["choices"] == want["choices"]);
      CHECK(cached_tokens(want) == 0);
      // Whole pages of 16 tokens; the ensemble has read what its experts read.
      CHECK(cached_tokens(got) == (last == 50 && std::string(model) != "expert-001" ? 0 : 32));
      CHECK(with.complete(body)["choices"] == want["choices"]);
    }
  }
  CHECK(with.metric("cbtm_prompt_cache_hit_tokens_total") >= 15 * 32);
  CHECK(with.metric("cbtm_prompt_cache_pages") > 0);
  CHECK(with.metric("cbtm_prompt_cache_bytes") > 0);
  CHECK(with.metric("cbtm_prompt_cache_evictions_total") == 0);
  CHECK(without.metric("cbtm_prompt_cache_hit_tokens_total") == 0);
  CHECK(without.metric("cbtm_prompt_cache_pages") == 0);
}

TEST_CASE("several texts of one prompt read it once, also at once, streamed, and after its echo") {
  const ServedRun served;
  Json body = request_of(prompt_of(47, 50));
  body["echo"] = true;
  const Json echoed = served.complete(body);
  CHECK(cached_tokens(echoed) == 0);  // its log-probabilities have to be worked out
  body["echo"] = false;
  CHECK(cached_tokens(served.complete(body)) == 32);
  body["n"] = 4;
  const Json copies = served.complete(body);
  CHECK(cached_tokens(copies) == 32);
  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  const std::vector<Json> events = events_of(served.post("/v1/completions", body).body);
  CHECK(cached_tokens(events.back()) == 32);
  const double before = served.metric("cbtm_prompt_cache_hit_tokens_total");
  Json fresh = request_of(prompt_of(47, 51));
  fresh["prompt"][0] = 60;
  fresh["n"] = 4;
  CHECK(cached_tokens(served.complete(fresh)) == 0);  // those of the first text of four
  CHECK(served.metric("cbtm_prompt_cache_hit_tokens_total") == before + 3 * 32);
}

TEST_CASE("what is kept stays within --prompt-cache, and many clients get what each gets alone") {
  const ServedRun small({"--prompt-cache", "20K"}), without({"--prompt-cache", "0"});
  std::vector<Json> bodies;
  for (int i = 0; i < 32; ++i) {
    Json body = request_of(prompt_of(30 + i % 3 * 8, 50 + i % 5), i);
    body["prompt"][i % 4 == 3 ? 0 : 20] = 61;
    if (i % 4 == 1) body["x_cbtm"] = {{"coefficients", {{"000", 1}, {"002", -0.5}}}};
    if (i % 8 == 2) body["echo"] = true;
    bodies.push_back(body);
  }
  std::vector<Json> got(bodies.size());
  std::vector<std::thread> clients;
  for (size_t i = 0; i < bodies.size(); ++i)
    clients.emplace_back([&, i] { got[i] = http_post(small.port(), "/v1/completions", bodies[i]).json()["choices"]; });
  for (std::thread& client : clients) client.join();
  for (size_t i = 0; i < bodies.size(); ++i) {
    CAPTURE(i);
    CHECK(got[i] == without.complete(bodies[i])["choices"]);
  }
  CHECK(small.metric("cbtm_prompt_cache_bytes") <= 20 * 1024);
  CHECK(small.metric("cbtm_prompt_cache_evictions_total") > 0);
}

TEST_CASE("a reload loads only the experts that have changed, and the others keep what they have read") {
  const TinyRunCopy run;
  std::filesystem::remove_all(run / "run");
  std::filesystem::copy(trained_run() / "run", run / "run", std::filesystem::copy_options::recursive);
  const ServedRun served({"--topk", "all"}, run.path());
  const Json body = request_of(prompt_of(40, 50));
  const Json before = served.complete(body);
  CHECK(served.metric("cbtm_weight_loads_total") == 3);
  REQUIRE(served.post("/v1/experts/reload", Json::object()).status == 200);
  const Json after = served.complete(body);
  CHECK(after["choices"] == before["choices"]);
  CHECK(cached_tokens(after) == 32);
  CHECK(served.metric("cbtm_weight_loads_total") == 3);
  // Expert 000 is trained again, for fewer steps.
  succeed(run_cbtm(tiny_training({"train_expert", "--shard", "0", "--redo"}, {"--steps", "5", "--save-every", "1000"}),
                   run.path()));
  REQUIRE(served.post("/v1/experts/reload", Json::object()).status == 200);
  const Json changed = served.complete(body);
  CHECK(cached_tokens(changed) == 0);
  CHECK(changed["choices"] != before["choices"]);
  CHECK(served.metric("cbtm_weight_loads_total") == 4);
}

TEST_CASE("one model obeys --memory, too") {
  const ServedRun served({"--memory", "64M"}, trained_run(), {"--model", "run/baseline"});
  served.complete({{"prompt", "comet"}, {"max_tokens", 2}});
  CHECK(served.metric("cbtm_memory_bytes") > 0);
  check_error(run_cbtm({"serve", "--port", "0", "--model", "run/baseline", "--memory", "4K", "--quiet"}, trained_run()),
              kExitFailure, "--memory");
}

}  // namespace
}  // namespace cbtm
