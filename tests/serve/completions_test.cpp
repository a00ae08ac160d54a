// POST /v1/completions: what clients, harnesses and the command line expect of it.

#include <algorithm>
#include <fstream>
#include <thread>

#include "tests/serve/served_run.h"

namespace cbtm {
namespace {

const ServedRun& server() {
  static const ServedRun served;
  return served;
}

/// What `cbtm ensemble generate` makes of a prompt.
Json command_line(const std::string& prompt, const std::vector<std::string>& more) {
  std::vector<std::string> words = {"ensemble", "generate", "--experts", "run/experts", "--threads",
                                    "1",        "--prompt", prompt,      "--json",      "generated.json"};
  words.insert(words.end(), more.begin(), more.end());
  succeed(run_cbtm(words, trained_run()));
  return read_json_file(trained_run() / "generated.json");
}

TEST_CASE("a completion: the fields that clients read") {
  const Json reply = server().complete(
      {{"model", "ensemble"}, {"prompt", "flour oven"}, {"max_tokens", 5}, {"seed", 3}, {"ignore_eos", true}});
  CHECK(reply["object"] == "text_completion");
  CHECK(reply["model"] == "ensemble");
  CHECK(reply["id"].get<std::string>().starts_with("cmpl-"));
  CHECK(reply["created"].is_number_integer());
  REQUIRE(reply["choices"].size() == 1);
  const Json& choice = reply["choices"][0];
  CHECK(choice["index"] == 0);
  CHECK(choice["finish_reason"] == "length");
  CHECK(choice["logprobs"].is_null());
  CHECK(choice["text"].is_string());
  const Json ids = server().post("/tokenize", {{"prompt", "flour oven"}}).json()["tokens"];
  CHECK(reply["usage"] == Json{{"prompt_tokens", ids.size()},
                               {"completion_tokens", 5},
                               {"total_tokens", ids.size() + 5},
                               {"prompt_tokens_details", {{"cached_tokens", 0}}}});
  CHECK(reply["x_cbtm"]["seed"] == 3);
  double sum = 0;
  for (const Json& tokens : reply["x_cbtm"]["expert_tokens"]) sum += tokens.get<double>();
  CHECK(sum == doctest::Approx(5));
}

TEST_CASE("the same request alone, among many, streamed, and on the command line: the same text") {
  struct Case {
    std::vector<std::string> flags;
    Json fields;
  };
  const std::vector<Case> cases = {
      {{"--greedy", "--max-new-tokens", "12"}, {{"temperature", 0}, {"max_tokens", 12}}},
      {{"--seed", "7", "--max-new-tokens", "20"}, {{"seed", 7}, {"max_tokens", 20}}},
      {{"--seed", "9", "--temperature", "0.7", "--sampling-top-k", "20", "--sampling-top-p", "0.9", "--max-new-tokens",
        "16", "--ignore-eos"},
       {{"seed", 9}, {"temperature", 0.7}, {"top_k", 20}, {"top_p", 0.9}, {"max_tokens", 16}, {"ignore_eos", true}}},
      {{"--seed", "4", "--repetition-penalty", "1.3", "--max-new-tokens", "16", "--stop", "e"},
       {{"seed", 4}, {"repetition_penalty", 1.3}, {"max_tokens", 16}, {"stop", "e"}}},
      {{"--seed", "5", "--topk", "3", "--router-temperature", "0.5", "--routing", "every:4", "--max-new-tokens", "16"},
       {{"seed", 5},
        {"max_tokens", 16},
        {"x_cbtm", {{"topk", "all"}, {"router_temperature", 0.5}, {"routing", "every:4"}}}}}};
  std::vector<Json> bodies;
  std::vector<std::string> wanted;
  for (const Case& one : cases) {
    const Json want = command_line("comet orbit flour", one.flags);
    Json body = one.fields;
    body["prompt"] = "comet orbit flour";
    const Json alone = server().complete(body)["choices"][0];
    CHECK(alone["text"] == want["text"][0]);
    CHECK(alone["finish_reason"] == (want["finish"][0] == "length" ? "length" : "stop"));
    bodies.push_back(body);
    wanted.push_back(alone["text"]);
  }
  std::vector<std::string> got(32);
  std::vector<std::thread> clients;
  for (size_t i = 0; i < got.size(); ++i)
    clients.emplace_back([&, i] {
      Json body = bodies[i % bodies.size()];
      body["stream"] = i % 2 == 0;
      const HttpReply reply = http_post(server().port(), "/v1/completions", body);
      if (i % 2 != 0) {
        got[i] = reply.json()["choices"][0]["text"];
        return;
      }
      for (const Json& event : events_of(reply.body)) got[i] += event["choices"][0]["text"].get<std::string>();
    });
  for (std::thread& client : clients) client.join();
  for (size_t i = 0; i < got.size(); ++i) CHECK(got[i] == wanted[i % wanted.size()]);
}

TEST_CASE("prompts as a text, texts, ids and lists of ids are the same prompts") {
  const Json ids = server().post("/tokenize", {{"prompt", "ledger audit"}}).json()["tokens"];
  const auto texts = [](const Json& prompt) {
    const Json reply =
        server().complete({{"prompt", prompt}, {"max_tokens", 6}, {"temperature", 0}, {"ignore_eos", true}});
    std::vector<std::string> list;
    for (size_t i = 0; i < reply["choices"].size(); ++i) {
      CHECK(reply["choices"][i]["index"] == i);
      list.push_back(reply["choices"][i]["text"]);
    }
    return list;
  };
  const std::string want = texts("ledger audit").front();
  CHECK(texts(ids) == std::vector{want});
  CHECK(texts(Json::array({"ledger audit", "ledger audit"})) == std::vector{want, want});
  CHECK(texts(Json::array({ids, ids, ids})) == std::vector{want, want, want});
  // Of one seed each prompt draws its own numbers, as on the command line.
  succeed(run_cbtm({"ensemble", "generate", "--experts", "run/experts", "--threads", "1", "--prompt-ids", "ids.json",
                    "--seed", "3", "--max-new-tokens", "8", "--json", "generated.json"},
                   [&] {
                     std::ofstream(trained_run() / "ids.json") << Json::array({ids, ids}).dump();
                     return trained_run();
                   }()));
  const Json want_texts = read_json_file(trained_run() / "generated.json")["text"];
  const Json reply = server().complete({{"prompt", Json::array({ids, ids})}, {"max_tokens", 8}, {"seed", 3}});
  for (size_t i = 0; i < 2; ++i) CHECK(reply["choices"][i]["text"] == want_texts[i]);
  const Json copies = server().complete({{"prompt", ids}, {"n", 2}, {"max_tokens", 8}, {"seed", 3}});
  for (size_t i = 0; i < 2; ++i) CHECK(copies["choices"][i]["text"] == want_texts[i]);
}

TEST_CASE("what lm-evaluation-harness asks for: log-probabilities of the prompt") {
  const Json first = server().post("/tokenize", {{"prompt", "flour oven butter knead"}}).json()["tokens"];
  const Json second = server().post("/tokenize", {{"prompt", "comet orbit"}}).json()["tokens"];
  const Json body = {{"model", "ensemble"}, {"prompt", Json::array({first, second})},
                     {"temperature", 0},    {"max_tokens", 1},
                     {"logprobs", 1},       {"seed", 1234},
                     {"echo", true}};
  const Json reply = server().complete(body);
  REQUIRE(reply["choices"].size() == 2);
  for (size_t i = 0; i < 2; ++i) {
    const Json& ids = i == 0 ? first : second;
    const Json& choice = reply["choices"][i];
    const Json& logprobs = choice["logprobs"];
    for (const char* list : {"tokens", "token_logprobs", "top_logprobs", "text_offset"})
      CHECK(logprobs[list].size() == ids.size() + 1);
    CHECK(logprobs["token_logprobs"][0].is_null());
    CHECK(logprobs["top_logprobs"][0].is_null());
    for (size_t t = 1; t < ids.size() + 1; ++t) {
      const double value = logprobs["token_logprobs"][t];
      CHECK(value <= 0);
      double best = -1e9;
      CHECK(logprobs["top_logprobs"][t].size() <= 2);
      for (const Json& other : logprobs["top_logprobs"][t]) best = std::max(best, other.get<double>());
      CHECK(best >= value);
      if (t == ids.size()) CHECK(best == value);  // it was chosen as the most likely
    }
    // The text is the prompt and what follows; offsets are where its tokens begin.
    const std::string text = choice["text"];
    CHECK(text.starts_with(i == 0 ? "flour oven butter knead" : "comet orbit"));
    for (size_t t = 1; t + 1 < ids.size(); ++t) {
      const size_t begin = logprobs["text_offset"][t], end = logprobs["text_offset"][t + 1];
      CHECK(text.substr(begin, end - begin) == logprobs["tokens"][t].get<std::string>());
    }
  }
  // The same numbers alone, and without the token.
  Json alone = body;
  alone["prompt"] = Json::array({second});
  CHECK(server().complete(alone)["choices"][0]["logprobs"] == reply["choices"][1]["logprobs"]);
  alone["max_tokens"] = 0;
  const Json none = server().complete(alone)["choices"][0];
  CHECK(none["text"] == "comet orbit");
  CHECK(none["finish_reason"] == "length");
  CHECK(none["logprobs"]["token_logprobs"].size() == second.size());
  for (size_t t = 1; t < second.size(); ++t)
    CHECK(none["logprobs"]["token_logprobs"][t] == reply["choices"][1]["logprobs"]["token_logprobs"][t]);
}

TEST_CASE("log-probabilities of a prompt are those of cbtm ensemble evaluate") {
  succeed(run_cbtm({"ensemble", "evaluate", "--experts", "run/experts", "--threads", "1", "--split", "valid",
                    "--token-log-probs", "details.jsonl"},
                   trained_run()));
  std::ifstream corpus(trained_run() / "corpus.jsonl"), details(trained_run() / "details.jsonl");
  std::map<std::string, std::string> texts;
  for (std::string line; std::getline(corpus, line);) {
    const Json document = Json::parse(line);
    texts[document["id"]] = document["text"];
  }
  int compared = 0;
  for (std::string line; std::getline(details, line) && compared < 5;) {
    const Json document = Json::parse(line);
    const auto text = texts.find(document["id"]);
    if (text == texts.end()) continue;
    const Json ids = server().post("/tokenize", {{"prompt", text->second}, {"add_special_tokens", false}}).json();
    if (ids["count"] > 64) continue;  // longer than the model's texts
    const Json reply = server().complete(
        {{"prompt", text->second}, {"add_special_tokens", false}, {"max_tokens", 0}, {"echo", true}, {"logprobs", 0}});
    const Json& got = reply["choices"][0]["logprobs"]["token_logprobs"];
    const Json& want = document["log_probabilities"];
    for (size_t t = 0; t + 1 < got.size() && t < want.size(); ++t)
      CHECK(got[t + 1].get<double>() == doctest::Approx(want[t].get<double>()).epsilon(1e-4));
    ++compared;
  }
  CHECK(compared == 5);
}

TEST_CASE("log-probabilities of new tokens: with echo and without, in a stream and whole") {
  Json body = {
      {"prompt", "saturn zenith"}, {"max_tokens", 7}, {"temperature", 0}, {"logprobs", 3}, {"ignore_eos", true}};
  const Json plain = server().complete(body)["choices"][0]["logprobs"];
  REQUIRE(plain["tokens"].size() == 7);
  for (size_t t = 0; t < 7; ++t) {
    CHECK(plain["top_logprobs"][t].size() == 3);
    CHECK(plain["top_logprobs"][t][plain["tokens"][t].get<std::string>()] == plain["token_logprobs"][t]);
  }
  body["echo"] = true;
  const Json echoed = server().complete(body)["choices"][0]["logprobs"];
  const size_t prompt = echoed["tokens"].size() - 7;
  for (size_t t = 0; t < 7; ++t)
    CHECK(echoed["token_logprobs"][prompt + t].get<double>() == plain["token_logprobs"][t].get<double>());
  body["echo"] = false;
  body["stream"] = true;
  Json streamed = {{"tokens", Json::array()},
                   {"token_logprobs", Json::array()},
                   {"top_logprobs", Json::array()},
                   {"text_offset", Json::array()}};
  for (const Json& event : events_of(server().post("/v1/completions", body).body))
    for (auto& [name, list] : streamed.items())
      for (const Json& value : event["choices"][0]["logprobs"][name]) list.push_back(value);
  CHECK(streamed == plain);
}

TEST_CASE("a stream: one event for each token, the usage if asked for, and [DONE]") {
  Json body = {{"prompt", Json::array({"flour oven", "comet"})},
               {"max_tokens", 9},
               {"seed", 2},
               {"stream", true},
               {"ignore_eos", true},
               {"stream_options", {{"include_usage", true}}}};
  const HttpReply reply = server().post("/v1/completions", body);
  CHECK(reply.headers.at("content-type").starts_with("text/event-stream"));
  CHECK(reply.headers.at("transfer-encoding") == "chunked");
  const std::vector<Json> events = events_of(reply.body);
  std::vector<std::string> texts(2), finishes(2);
  for (size_t e = 0; e + 1 < events.size(); ++e) {
    REQUIRE(events[e]["choices"].size() == 1);
    CHECK(events[e]["usage"].is_null());
    CHECK(events[e]["object"] == "text_completion");
    const Json& choice = events[e]["choices"][0];
    const size_t index = choice["index"];
    CHECK(finishes[index].empty());
    texts[index] += choice["text"].get<std::string>();
    if (!choice["finish_reason"].is_null()) finishes[index] = choice["finish_reason"];
  }
  CHECK(finishes == std::vector<std::string>{"length", "length"});
  CHECK(events.back()["choices"].empty());
  CHECK(events.back()["usage"]["completion_tokens"] == 18);
  body["stream"] = false;
  body.erase("stream_options");
  const Json whole = server().complete(body);
  for (size_t i = 0; i < 2; ++i) CHECK(whole["choices"][i]["text"] == texts[i]);
  body["stream"] = true;
  const std::vector<Json> without = events_of(server().post("/v1/completions", body).body);
  CHECK(!without.back()["choices"].empty());
  CHECK(without.back()["x_cbtm"]["seed"] == 2);
}

TEST_CASE("bias and penalties change what is chosen, as they say") {
  const Json ids = server().post("/tokenize", {{"prompt", "oven"}, {"add_special_tokens", false}}).json()["tokens"];
  const int64_t forced = ids[0];
  const Json biased = server().complete({{"prompt", "comet"},
                                         {"max_tokens", 3},
                                         {"temperature", 0},
                                         {"logprobs", 0},
                                         {"logit_bias", {{std::to_string(forced), 100}}}});
  const std::string name =
      server()
          .post("/tokenize", {{"prompt", "oven"}, {"add_special_tokens", false}, {"return_token_strs", true}})
          .json()["token_strs"][0];
  for (const Json& token : biased["choices"][0]["logprobs"]["tokens"]) CHECK(token == name);
  CHECK(biased["choices"][0]["logprobs"]["token_logprobs"][0].get<double>() < -0.01);  // the model's own opinion
  for (const char* penalty : {"frequency_penalty", "presence_penalty"}) {
    const Json reply = server().complete({{"prompt", "comet"},
                                          {"max_tokens", 12},
                                          {"temperature", 0},
                                          {"logprobs", 0},
                                          {"ignore_eos", true},
                                          {penalty, 100}});
    std::vector<std::string> tokens = reply["choices"][0]["logprobs"]["tokens"];
    std::sort(tokens.begin(), tokens.end());
    CHECK(std::adjacent_find(tokens.begin(), tokens.end()) == tokens.end());
  }
}

TEST_CASE("an end token ends the text, is counted, and is no part of it") {
  const Json info = server().get("/tokenizer_info").json();
  const Json reply = server().complete({{"prompt", "comet"},
                                        {"max_tokens", 5},
                                        {"temperature", 0},
                                        {"logprobs", 1},
                                        {"logit_bias", {{info["eos_token_id"].dump(), 100}}}});
  const Json& choice = reply["choices"][0];
  CHECK(choice["finish_reason"] == "stop");
  CHECK(choice["text"] == "");
  CHECK(reply["usage"]["completion_tokens"] == 1);
  CHECK(choice["logprobs"]["tokens"] == Json::array({info["eos_token"]}));
  const Json echoed = server().complete({{"prompt", "comet"},
                                         {"max_tokens", 1},
                                         {"temperature", 0},
                                         {"logprobs", 1},
                                         {"echo", true},
                                         {"logit_bias", {{info["eos_token_id"].dump(), 100}}}});
  const size_t prompt = echoed["usage"]["prompt_tokens"];
  CHECK(echoed["choices"][0]["logprobs"]["token_logprobs"].size() == prompt + 1);
  CHECK(echoed["choices"][0]["finish_reason"] == "stop");
  CHECK(echoed["choices"][0]["text"] == "comet");
}

TEST_CASE("stop strings cut the text, and the tokens of the whole text stay within the context") {
  const Json plain = server().complete({{"prompt", "flour"}, {"max_tokens", 40}, {"seed", 5}, {"ignore_eos", true}});
  const std::string text = plain["choices"][0]["text"];
  REQUIRE(text.size() > 10);
  const std::string stop = text.substr(6, 3);
  const Json cut = server().complete({{"prompt", "flour"},
                                      {"max_tokens", 40},
                                      {"seed", 5},
                                      {"ignore_eos", true},
                                      {"stop", Json::array({"@@@@", stop})}});
  CHECK(cut["choices"][0]["text"] == text.substr(0, text.find(stop)));
  CHECK(cut["choices"][0]["finish_reason"] == "stop");
  const Json full = server().complete({{"prompt", "flour"}, {"max_tokens", 100000}, {"seed", 5}, {"ignore_eos", true}});
  CHECK(full["usage"]["total_tokens"] == 64);
  CHECK(full["choices"][0]["finish_reason"] == "length");
}

TEST_CASE("each expert, the seed and the baseline are models of their own") {
  const Json models = server().get("/v1/models").json()["data"];
  std::vector<std::string> names;
  for (const Json& model : models) {
    CHECK(model["object"] == "model");
    names.push_back(model["id"]);
    CHECK(server().get("/v1/models/" + names.back()).json() == model);
  }
  CHECK(names == std::vector<std::string>{"ensemble", "expert-000", "expert-001", "expert-002", "seed", "baseline"});
  for (const std::string& name : names) {
    const Json reply = server().complete(
        {{"model", name}, {"prompt", "comet orbit"}, {"max_tokens", 8}, {"temperature", 0}, {"logprobs", 1}});
    CHECK(reply["model"] == name);
    if (name == "ensemble") continue;
    const std::string directory = name.starts_with("expert-") ? "experts/" + name.substr(7) : name;
    succeed(run_cbtm({"generate", "--model", "run/" + directory, "--tokenizer", "run/tokenizer", "--threads", "1",
                      "--greedy", "--max-new-tokens", "8", "--prompt", "comet orbit", "--json", "generated.json"},
                     trained_run()));
    CHECK(reply["choices"][0]["text"] == read_json_file(trained_run() / "generated.json")["text"][0]);
  }
}

TEST_CASE("x_cbtm: weights of each token, and experts that a text may use") {
  const Json reply = server().complete({{"prompt", "comet orbit"},
                                        {"max_tokens", 6},
                                        {"seed", 1},
                                        {"ignore_eos", true},
                                        {"x_cbtm", {{"weights", true}, {"topk", 2}}}});
  const Json& tokens = reply["choices"][0]["x_cbtm"]["tokens"];
  REQUIRE(tokens.size() == 6);
  for (const Json& token : tokens) {
    double sum = 0;
    for (const Json& weight : token["weights"]) sum += weight.get<double>();
    CHECK(sum == doctest::Approx(1));
    CHECK(token["weights"].size() <= 2);
    CHECK(token["token"].is_string());
  }
  const Json one = server().complete({{"prompt", "comet orbit"},
                                      {"max_tokens", 6},
                                      {"seed", 1},
                                      {"ignore_eos", true},
                                      {"x_cbtm", {{"experts", {"001"}}}}});
  CHECK(one["x_cbtm"]["expert_tokens"] == Json{{"001", 6.0}});
  const Json same = server().complete(
      {{"model", "expert-001"}, {"prompt", "comet orbit"}, {"max_tokens", 6}, {"seed", 1}, {"ignore_eos", true}});
  CHECK(same["choices"][0]["text"] == one["choices"][0]["text"]);
}

TEST_CASE("a field that the server does not know is named in the reply") {
  const Json reply = server().complete({{"prompt", "comet"}, {"max_tokens", 1}, {"colour", "red"}});
  CHECK(reply["x_cbtm"]["ignored"] == Json::array({"colour"}));
}

}  // namespace
}  // namespace cbtm
