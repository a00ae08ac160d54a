// What the server refuses, and how it says so.

#include <fstream>

#include "cbtm/base/philox.h"
#include "tests/serve/served_run.h"

namespace cbtm {
namespace {

const ServedRun& server() {
  static const ServedRun served({"--cors-origin", "http://localhost:3000"});
  return served;
}

TEST_CASE("requests that are wrong: each with its status, the field and a message") {
  struct Case {
    const char* body;
    int status;
    const char* message;
  };
  const Case cases[] = {
      {R"({"prompt": "a", "model": "gpt-5"})", 404, "there is no model 'gpt-5'"},
      {R"({"max_tokens": 3})", 400, "'prompt' is missing"},
      {R"({"prompt": 3})", 400, "'prompt'"},
      {R"({"prompt": []})", 400, "'prompt'"},
      {R"({"prompt": [[]]})", 400, "empty"},
      {R"({"prompt": [5, "a"]})", 400, "prompt"},
      {R"({"prompt": [5, 100000]})", 400, "100000"},
      {R"({"prompt": [5, -1]})", 400, "-1"},
      {R"({"prompt": "a", "max_tokens": "many"})", 400, "max_tokens"},
      {R"({"prompt": "a", "max_tokens": -1})", 400, "max_tokens"},
      {R"({"prompt": "a", "temperature": -1})", 400, "temperature"},
      {R"({"prompt": "a", "temperature": 1e-9})", 400, "temperature"},
      {R"({"prompt": "a", "top_p": 2})", 400, "top_p"},
      {R"({"prompt": "a", "top_k": -2})", 400, "top_k"},
      {R"({"prompt": "a", "n": 0})", 400, "'n'"},
      {R"({"prompt": "a", "best_of": 3, "stream": true})", 400, "best_of"},
      {R"({"prompt": "a", "best_of": 2, "n": 3})", 400, "best_of"},
      {R"({"prompt": "a", "suffix": "b"})", 422, "suffix"},
      {R"({"prompt": "a", "min_p": 0.1})", 422, "min_p"},
      {R"({"prompt": "a", "response_format": {"type": "json_object"}})", 422, "response_format"},
      {R"({"prompt": "a", "logprobs": 1000})", 400, "logprobs"},
      {R"({"prompt": "a", "stop": 3})", 400, "stop"},
      {R"({"prompt": "a", "seed": 1.5})", 400, "seed"},
      {R"({"prompt": "a", "stream": "yes"})", 400, "stream"},
      {R"({"prompt": "a", "stream_options": {"include_usage": true}})", 400, "stream_options"},
      {R"({"prompt": "a", "logit_bias": {"x": 1}})", 400, "logit_bias"},
      {R"({"prompt": "a", "logit_bias": {"999999": 1}})", 400, "logit_bias"},
      {R"({"prompt": "a", "x_cbtm": {"topk": 0}})", 400, "topk"},
      {R"({"prompt": "a", "x_cbtm": {"router_temperature": 0}})", 400, "router_temperature"},
      {R"({"prompt": "a", "x_cbtm": {"distance_power": 3}})", 400, "distance_power"},
      {R"({"prompt": "a", "x_cbtm": {"routing": "fraction:0.5"}})", 400, "routing"},
      {R"({"prompt": "a", "x_cbtm": {"routing": "sometimes"}})", 400, "routing"},
      {R"({"prompt": "a", "x_cbtm": {"experts": ["007"]}})", 400, "experts"},
      {R"({"prompt": "a", "x_cbtm": {"experts": []}})", 400, "experts"},
      {R"({"prompt": "a", "x_cbtm": {"coefficients": {"007": 1}}})", 400, "there is no expert '007'"},
      {R"({"prompt": "a", "x_cbtm": {"coefficients": {"000": 1, "expert-000": 1}}})", 400, "twice"},
      {R"({"prompt": "a", "x_cbtm": {"coefficients": {"000": 0}}})", 400, "all are 0"},
      {R"({"prompt": "a", "x_cbtm": {"coefficients": {}}})", 400, "all are 0"},
      {R"({"prompt": "a", "x_cbtm": {"coefficients": {"000": 1e4}}})", 400, "from -100 to 100"},
      {R"({"prompt": "a", "x_cbtm": {"coefficients": {"000": 1e999}}})", 400, ""},
      {R"({"prompt": "a", "x_cbtm": {"coefficients": {"000": "1"}}})", 400, "coefficients"},
      {R"({"prompt": "a", "x_cbtm": {"coefficients": [1]}})", 400, "coefficients"},
      {R"({"prompt": "a", "x_cbtm": {"coefficients": {"000": 1}, "topk": 1}})", 400, "'x_cbtm.topk'"},
      {R"({"prompt": "a", "x_cbtm": {"coefficients": {"000": 1}, "routing": "token"}})", 400, "'x_cbtm.routing'"},
      {R"({"prompt": "a", "model": "seed", "x_cbtm": {"coefficients": {"000": 1}}})", 400, "one model"},
      {R"({"prompt": "a", "model": "expert-000", "x_cbtm": {"coefficients": {"000": 1}}})", 400, "one model"},
      {R"({"prompt": "a", "x_cbtm": {"colour": 1}})", 400, "x_cbtm.colour"},
      {R"({"prompt": "a", "model": "baseline", "x_cbtm": {"topk": 1}})", 400, "topk"},
      {R"({"prompt": "a", "model": "seed", "x_cbtm": {"weights": true}})", 400, "weights"},
      {R"({"prompt": "a")", 400, "line"},
      {R"([])", 400, "object"},
      {R"({"prompt": "a", "prompt": "b"})", 400, "prompt"},
      {"{\"prompt\": \"\xff\"}", 400, "UTF-8"},
      {"", 400, "no body"},
  };
  for (const Case& one : cases) {
    CAPTURE(one.body);
    check_refused(http_post(server().port(), "/v1/completions", std::string(one.body)), one.status, one.message);
  }
  std::string deep = "{\"prompt\": ";
  deep += std::string(100, '[') + std::string(100, ']') + "}";
  check_refused(http_post(server().port(), "/v1/completions", deep), 400, "");
  Json long_prompt = {{"prompt", std::vector<int>(65, 7)}};
  check_refused(server().post("/v1/completions", long_prompt), 400, "65 tokens");
  long_prompt["prompt"] = std::vector<int>(64, 7);
  check_refused(server().post("/v1/completions", long_prompt), 400, "64 tokens");
  const Json scored =
      server().complete({{"prompt", std::vector<int>(64, 7)}, {"max_tokens", 0}, {"echo", true}, {"logprobs", 1}});
  CHECK(scored["choices"][0]["logprobs"]["tokens"].size() == 64);
  // All log-probabilities of a reply are kept until it ends: 1024 * 1 * 40 tokens of 101.
  Json many = {{"prompt", std::vector<std::vector<int>>(1024, std::vector<int>(24, 7))}, {"max_tokens", 100}};
  many["logprobs"] = 100;
  check_refused(server().post("/v1/completions", many), 400, "4136960 log-probabilities");
}

TEST_CASE("chats that are wrong") {
  const auto refused = [](const char* body, int status, const char* message) {
    CAPTURE(body);
    check_refused(http_post(server().port(), "/v1/chat/completions", std::string(body)), status, message);
  };
  refused(R"({"prompt": "a"})", 400, "'messages' is missing");
  refused(R"({"messages": []})", 400, "empty");
  refused(R"({"messages": ["a"]})", 400, "messages");
  refused(R"({"messages": [{"content": "a"}]})", 400, "role");
  refused(R"({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})", 422, "image_url");
  refused(R"({"messages": [{"role": "user", "content": "a"}], "tools": [{}]})", 422, "tools");
  refused(R"({"messages": [{"role": "user", "content": "a"}], "top_logprobs": 2})", 400, "top_logprobs");
  refused(R"({"messages": [{"role": "user", "content": "a"}], "echo": true})", 422, "echo");
}

TEST_CASE("wrong paths and methods") {
  check_refused(server().get("/v2/completions"), 404, "/v2/completions");
  check_refused(server().get("/v1/models/none"), 404, "none");
  check_refused(server().get("/v1/completions"), 405, "POST");
  check_refused(http_post(server().port(), "/health", std::string("{}")), 405, "GET");
  HttpConnection connection(server().port());
  connection.send(http_text("DELETE", "/v1/models"));
  check_refused(connection.reply(), 405, "GET");
  connection.send(http_text("HEAD", "/health"));
  CHECK(connection.reply(true).status == 200);
  check_refused(http_post(server().port(), "/tokenize", std::string("{}")), 400, "prompt");
  check_refused(http_post(server().port(), "/detokenize", std::string(R"({"tokens": [-1]})")), 400, "tokens");
  check_refused(http_post(server().port(), "/v1/embeddings", std::string(R"({"input": []})")), 400, "input");
}

TEST_CASE("bytes that are no request are answered, and the connection ends") {
  const auto answer = [](const std::string& bytes) {
    HttpConnection connection(server().port());
    connection.send(bytes);
    HttpReply reply = connection.reply();
    CHECK(connection.receive_all(10).empty());
    return reply;
  };
  check_refused(answer("hello\r\n\r\n"), 400, "HTTP");
  check_refused(answer("GET / HTTP/3.0\r\n\r\n"), 505, "HTTP/1.1");
  check_refused(answer("GET nowhere HTTP/1.1\r\n\r\n"), 400, "/");
  check_refused(answer("GET / HTTP/1.1\r\nno header\r\n\r\n"), 400, "header");
  check_refused(answer("POST /tokenize HTTP/1.1\r\nContent-Length: many\r\n\r\n"), 400, "Content-Length");
  check_refused(answer("POST /tokenize HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"), 400,
                "Content-Length");
  check_refused(answer("POST /tokenize HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"), 400,
                "both");
  check_refused(answer("POST /tokenize HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n"), 501, "gzip");
  check_refused(answer("POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"), 400, "chunk");
  check_refused(answer("POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcde\r\n"), 400, "chunk");
  check_refused(answer("POST /tokenize HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n"), 413, "larger");
  check_refused(answer("GET / HTTP/1.1\r\nX: " + std::string(70000, 'a') + "\r\n\r\n"), 431, "65536");
  // A body that is too large is refused while it is still being sent, and the client can read why.
  HttpConnection connection(server().port());
  connection.send("POST /tokenize HTTP/1.1\r\nContent-Length: 40000000\r\n\r\n");
  connection.send(std::string(1 << 20, 'a'));
  check_refused(connection.reply(), 413, "larger");
}

TEST_CASE("headers of 60 KB, bodies in chunks and 100 Continue are taken") {
  CHECK(server().get("/health", "X-Long: " + std::string(60000, 'a') + "\r\n").status == 200);
  HttpConnection connection(server().port());
  connection.send("POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
  for (const char* piece :
       {"7;note=1\r\n{\"promp\r\n", "1\r\nt\r\n", "8\r\n\": \"oven\r", "\n2\r\n\"}\r\n0\r\nTrailer: x\r\n\r\n"})
    connection.send(piece);
  const Json want = server().post("/tokenize", {{"prompt", "oven"}}).json();
  CHECK(connection.reply().json() == want);
  connection.send("POST /tokenize HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 18\r\n\r\n");
  CHECK(connection.reply().status == 100);
  connection.send("{\"prompt\": \"oven\"}");
  CHECK(connection.reply().json() == want);
}

TEST_CASE("other origins: preflights, and headers for the one that may") {
  HttpConnection connection(server().port());
  connection.send(http_text("OPTIONS", "/v1/completions", "", "Origin: http://localhost:3000\r\n"));
  const HttpReply preflight = connection.reply();
  CHECK(preflight.status == 204);
  CHECK(preflight.headers.at("access-control-allow-origin") == "http://localhost:3000");
  CHECK(preflight.headers.at("access-control-allow-headers").find("Authorization") != std::string::npos);
  CHECK(server().get("/health", "Origin: http://localhost:3000\r\n").headers.contains("access-control-allow-origin"));
  CHECK(!server().get("/health", "Origin: http://evil.example\r\n").headers.contains("access-control-allow-origin"));
}

TEST_CASE("bodies that chance has damaged are answered, and nothing breaks") {
  const std::string good =
      R"({"prompt": ["flour", "oven"], "max_tokens": 3, "logprobs": 2, "echo": true, "stop": ["a"], "seed": 5,)"
      R"( "logit_bias": {"7": 1.5}, "x_cbtm": {"topk": 1, "experts": ["001"], "routing": "every:3", "weights": true}})";
  PhiloxStream random(17, 0);
  HttpConnection connection(server().port());
  int taken = 0;
  for (int round = 0; round < 600; ++round) {
    std::string body = good;
    for (uint64_t changes = 1 + random.next_below(3); changes > 0; --changes) {
      const size_t place = random.next_below(body.size());
      switch (random.next_below(4)) {
        case 0: body[place] = static_cast<char>(random.next_below(256)); break;
        case 1: body.erase(place, 1 + random.next_below(12)); break;
        case 2: body.insert(place, body.substr(random.next_below(body.size()), random.next_below(20))); break;
        default: body[place] = "0123456789[]{}\",:-.e"[random.next_below(20)];
      }
    }
    if (body.empty()) continue;
    CAPTURE(body);
    connection.send(http_text("POST", "/v1/completions", body));
    const HttpReply reply = connection.reply();
    if (reply.status == 200)
      ++taken;
    else
      check_refused(reply, reply.status, "");
    CHECK((reply.status == 200 || reply.status == 400 || reply.status == 404 || reply.status == 422));
  }
  CHECK(taken > 0);
  CHECK(server().get("/health").status == 200);
}

TEST_CASE("with API keys: health and the page are free, all else needs one of them") {
  std::ofstream(trained_run() / "keys") << "# keys\nfirst-key\n\nsecond-key\n";
  const ServedRun guarded({"--api-key-file", "keys", "--api-key", "third-key"});
  CHECK(guarded.get("/health").status == 200);
  CHECK(guarded.get("/").status == 200);
  check_refused(guarded.get("/v1/models"), 401, "API key");
  check_refused(guarded.get("/metrics"), 401, "API key");
  check_refused(guarded.get("/v1/models", "Authorization: Bearer \r\n"), 401, "API key");
  check_refused(guarded.get("/v1/models", "Authorization: Bearer first-kex\r\n"), 401, "wrong");
  check_refused(guarded.get("/v1/models", "Authorization: Bearer first-key2\r\n"), 401, "wrong");
  check_refused(guarded.post("/v1/completions", {{"prompt", "a"}}), 401, "API key");
  for (const char* key : {"first-key", "second-key", "third-key"})
    CHECK(guarded.get("/v1/models", "Authorization: Bearer " + std::string(key) + "\r\n").status == 200);
  CHECK(guarded.get("/v1/models", "X-Api-Key: second-key\r\n").status == 200);
}

TEST_CASE("command lines that are wrong") {
  const auto refused = [](std::vector<std::string> flags, int code, const std::string& message) {
    flags.insert(flags.begin(), "serve");
    check_error(run_cbtm(flags, trained_run()), code, message);
  };
  refused({}, 2, "--experts DIR or --model DIR");
  refused({"--experts", "run/experts", "--model", "run/seed"}, 2, "not both");
  refused({"--model", "run/seed", "--topk", "2"}, 2, "--topk");
  refused({"--experts", "run/experts", "--topk", "0"}, 2, "--topk");
  refused({"--experts", "run/experts", "--routing", "fraction:0.5"}, 2, "fraction");
  refused({"--experts", "run/experts", "--port", "70000"}, 2, "--port");
  refused({"--experts", "nowhere", "--port", "0"}, 1, "nowhere");
  refused({"--experts", "run/experts", "--host", "example.org", "--port", "0"}, 1, "numbers");
  refused({"--experts", "run/experts", "--api-key-file", "nowhere", "--port", "0"}, 1, "nowhere");
  std::ofstream(trained_run() / "jinja") << "{% for m in messages %}{{role}}{{content}}{% endfor %}";
  refused({"--experts", "run/experts", "--chat-template", "jinja", "--port", "0"}, 1, "jinja");
  const ServedRun other;
  refused({"--experts", "run/experts", "--port", std::to_string(other.port())}, 1, "cannot be listened on");
}

}  // namespace
}  // namespace cbtm
