// The endpoints beside completions.

#include <cstring>
#include <sstream>

#include "tests/serve/served_run.h"

namespace cbtm {
namespace {

const ServedRun& server() {
  static const ServedRun served({"--alias", "mixture"});
  return served;
}

TEST_CASE("a chat is its template's text, continued until the user's next message would begin") {
  const Json messages = {{{"role", "system"}, {"content", "flour"}},
                         {{"role", "user"}, {"content", {{{"type", "text"}, {"text", "oven"}}}}}};
  const HttpReply reply =
      server().post("/v1/chat/completions", {{"messages", messages}, {"max_tokens", 10}, {"temperature", 0}});
  REQUIRE(reply.status == 200);
  const Json chat = reply.json();
  CHECK(chat["object"] == "chat.completion");
  CHECK(chat["model"] == "mixture");
  CHECK(chat["choices"][0]["message"]["role"] == "assistant");
  const Json plain = server().complete({{"prompt", "system: flour\nuser: oven\nassistant:"},
                                        {"max_tokens", 10},
                                        {"temperature", 0},
                                        {"stop", "\nuser:"}});
  CHECK(chat["choices"][0]["message"]["content"] == plain["choices"][0]["text"]);
  for (const char* tokens : {"prompt_tokens", "completion_tokens", "total_tokens"})
    CHECK(chat["usage"][tokens] == plain["usage"][tokens]);
  const Json scored = server()
                          .post("/v1/chat/completions", {{"messages", messages},
                                                         {"max_completion_tokens", 4},
                                                         {"temperature", 0},
                                                         {"ignore_eos", true},
                                                         {"logprobs", true},
                                                         {"top_logprobs", 2}})
                          .json();
  const Json& content = scored["choices"][0]["logprobs"]["content"];
  REQUIRE(content.size() == 4);
  for (const Json& token : content) {
    CHECK(token["top_logprobs"].size() == 2);
    CHECK(token["logprob"] == token["top_logprobs"][0]["logprob"]);
    CHECK(token["bytes"].is_array());
  }
  std::string streamed;
  bool first = true;
  for (const Json& event :
       events_of(server()
                     .post("/v1/chat/completions",
                           {{"messages", messages}, {"max_tokens", 10}, {"temperature", 0}, {"stream", true}})
                     .body)) {
    CHECK(event["object"] == "chat.completion.chunk");
    CHECK(event["choices"][0]["delta"].contains("role") == first);
    first = false;
    streamed += event["choices"][0]["delta"]["content"].get<std::string>();
  }
  CHECK(streamed == chat["choices"][0]["message"]["content"]);
}

TEST_CASE("texts to tokens and back") {
  const Json tokens =
      server().post("/tokenize", {{"prompt", "flour \u00e9 oven"}, {"add_special_tokens", false}}).json();
  CHECK(tokens["count"] == tokens["tokens"].size());
  CHECK(server().post("/detokenize", {{"tokens", tokens["tokens"]}}).json()["prompt"] == "flour \u00e9 oven");
  const Json with = server().post("/tokenize", {{"prompt", "flour \u00e9 oven"}}).json();
  const Json info = server().get("/tokenizer_info").json();
  CHECK(with["tokens"][0] == info["bos_token_id"]);
  CHECK(with["tokens"].size() == tokens["tokens"].size() + 1);
  for (const char* name : {"eos_token", "bos_token", "pad_token", "chat_template"}) CHECK(info[name].is_string());
}

TEST_CASE("characters of several tokens: offsets count characters, and names of tokens stay apart") {
  const std::string text = "a\u00e9\u4e2d\U0001F600 oven";
  const Json reply = server().complete({{"prompt", text}, {"max_tokens", 0}, {"echo", true}, {"logprobs", 1}});
  const Json& logprobs = reply["choices"][0]["logprobs"];
  CHECK(reply["choices"][0]["text"] == text);
  CHECK(logprobs["tokens"][0] == server().get("/tokenizer_info").json()["bos_token"]);
  CHECK(logprobs["text_offset"][0] == 0);
  CHECK(logprobs["text_offset"][1] == 0);  // </s> is not in the text
  int64_t before = 0;
  bool bytes = false;
  for (size_t t = 0; t < logprobs["tokens"].size(); ++t) {
    const int64_t offset = logprobs["text_offset"][t];
    CHECK(offset >= before);
    before = offset;
    bytes = bytes || logprobs["tokens"][t].get<std::string>().starts_with("bytes:\\x");
  }
  CHECK(bytes);
  CHECK(before <= 9);
}

TEST_CASE("experts, and how near a text is to each") {
  const Json experts = server().get("/v1/experts").json();
  REQUIRE(experts["data"].size() == 3);
  for (const Json& expert : experts["data"]) CHECK(!expert["top_terms"].empty());
  server().complete({{"prompt", "flour"}, {"max_tokens", 8}, {"ignore_eos", true}});
  double tokens = 0;
  const Json served = server().get("/v1/experts").json();
  for (const Json& expert : served["data"]) tokens += expert["tokens"].get<double>();
  CHECK(tokens >= 7.99);

  const Json near = server().post("/v1/embeddings", {{"input", {"flour oven butter", "comet orbit planet"}}}).json();
  REQUIRE(near["data"].size() == 2);
  size_t nearest[2];
  for (size_t i = 0; i < 2; ++i) {
    const std::vector<double> weights = near["data"][i]["x_cbtm"]["weights"];
    const std::vector<double> distances = near["data"][i]["x_cbtm"]["squared_distances"];
    nearest[i] = static_cast<size_t>(std::max_element(weights.begin(), weights.end()) - weights.begin());
    CHECK(std::min_element(distances.begin(), distances.end()) - distances.begin() == static_cast<int64_t>(nearest[i]));
    CHECK(near["data"][i]["embedding"].size() == 8);
  }
  CHECK(nearest[0] != nearest[1]);
  const Json coded =
      server().post("/v1/embeddings", {{"input", "flour oven butter"}, {"encoding_format", "base64"}}).json();
  CHECK(coded["data"][0]["embedding"].get<std::string>().size() == 44);  // of 32 bytes
}

TEST_CASE("metrics are in Prometheus' format, and count") {
  const double before = server().metric("cbtm_tokens_predicted_total");
  server().complete({{"prompt", "flour"}, {"max_tokens", 6}, {"ignore_eos", true}});
  CHECK(server().metric("cbtm_tokens_predicted_total") == before + 6);
  const HttpReply reply = server().get("/metrics");
  CHECK(reply.headers.at("content-type").starts_with("text/plain"));
  std::istringstream lines(reply.body);
  std::string named;
  for (std::string line; std::getline(lines, line);) {
    CAPTURE(line);
    if (line.starts_with("# TYPE ")) named = line.substr(7, line.find(' ', 7) - 7);
    if (line.starts_with("#")) continue;
    CHECK(line.starts_with(named));
    CHECK_NOTHROW(static_cast<void>(std::stod(line.substr(line.rfind(' ')))));
  }
  for (const char* name :
       {"cbtm_time_to_first_token_seconds_count", "cbtm_time_between_tokens_seconds_sum", "cbtm_prompt_tokens_total",
        "cbtm_expert_tokens_total{expert=\"000\"}", "cbtm_requests_total{path=\"/v1/completions\",status=\"200\"}"})
    CHECK(reply.body.find(std::string("\n") + name + " ") != std::string::npos);
}

TEST_CASE("the page is one file that loads nothing") {
  const HttpReply reply = server().get("/");
  CHECK(reply.headers.at("content-type") == "text/html; charset=utf-8");
  CHECK(reply.body.starts_with("<!DOCTYPE html>"));
  CHECK(reply.body.ends_with("</html>\n"));
  for (const char* foreign : {"http://", "https://", "src=", "@import", "<link"})
    CHECK(reply.body.find(foreign) == std::string::npos);
}

TEST_CASE("one model: the same endpoints, and what is of experts is refused") {
  const ServedRun single({}, trained_run(), {"--model", "run/baseline", "--tokenizer", "run/tokenizer"});
  CHECK(single.get("/v1/models").json()["data"].size() == 1);
  const Json reply = single.complete({{"model", "baseline"},
                                      {"prompt", "comet"},
                                      {"max_tokens", 5},
                                      {"logprobs", 1},
                                      {"echo", true},
                                      {"ignore_eos", true},
                                      {"temperature", 0}});
  CHECK(!reply["x_cbtm"].contains("expert_tokens"));
  check_refused(single.get("/v1/experts"), 404, "one model");
  check_refused(single.post("/v1/embeddings", {{"input", "a"}}), 404, "one model");
  check_refused(single.post("/v1/completions", {{"prompt", "a"}, {"x_cbtm", {{"topk", 1}}}}), 400, "topk");
  succeed(run_cbtm({"generate", "--model", "run/baseline", "--tokenizer", "run/tokenizer", "--threads", "1", "--seed",
                    "8", "--max-new-tokens", "12", "--prompt", "comet orbit", "--json", "generated.json"},
                   trained_run()));
  const Json want = read_json_file(trained_run() / "generated.json");
  CHECK(single.complete({{"prompt", "comet orbit"}, {"seed", 8}, {"max_tokens", 12}})["choices"][0]["text"] ==
        want["text"][0]);
  CHECK(single.post("/v1/chat/completions", {{"messages", {{{"role", "user"}, {"content", "a"}}}}}).status == 200);
}

}  // namespace
}  // namespace cbtm
