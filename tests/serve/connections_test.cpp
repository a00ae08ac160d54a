// Clients that are slow, many, impatient or gone; and the server's own end.

#include <sys/resource.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/serve/served_run.h"

namespace cbtm {
namespace {

std::string posted(const Json& body) { return http_text("POST", "/v1/completions", body.dump()); }

TEST_CASE("requests that follow one another on a connection, also at once, are answered in order") {
  const ServedRun server;
  HttpConnection connection(server.port());
  for (int i = 0; i < 3; ++i) {
    connection.send(http_text("GET", "/health"));
    CHECK(connection.reply().json()["status"] == "ok");
  }
  const Json slow = {{"prompt", "flour"}, {"max_tokens", 30}, {"seed", 1}, {"ignore_eos", true}};
  connection.send(posted(slow) + http_text("GET", "/health") + posted(slow) + http_text("GET", "/v2"));
  const Json first = connection.reply().json();
  CHECK(first["usage"]["completion_tokens"] == 30);
  CHECK(connection.reply().json()["status"] == "ok");
  CHECK(connection.reply().json()["choices"] == first["choices"]);
  CHECK(connection.reply().status == 404);
  connection.send("GET /health HTTP/1.0\r\n\r\n");
  CHECK(connection.reply().headers.at("connection") == "close");
  CHECK(connection.receive_all(10).empty());
  HttpConnection old(server.port());
  Json stream = slow;
  stream["stream"] = true;
  const std::string body = stream.dump();
  old.send("POST /v1/completions HTTP/1.0\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body);
  const HttpReply reply = old.reply();
  CHECK(!reply.headers.contains("transfer-encoding"));
  CHECK(events_of(reply.body).size() >= 1);
}

TEST_CASE("a client that goes away ends its texts; others go on") {
  const ServedRun server({"--parallel", "4"});
  for (const bool stream : {false, true})
    for (const bool half : {false, true}) {
      Json work = long_work();
      work["stream"] = stream;
      const double before = server.metric("cbtm_requests_cancelled_total");
      {
        HttpConnection leaving(server.port());
        leaving.send(posted(work));
        CHECK(server.becomes("cbtm_texts_processing", 4));
        if (stream) CHECK(leaving.receive_until("data: "));
        if (half) {
          leaving.half_close();
          CHECK(server.becomes("cbtm_texts_processing", 0));
        }
      }
      CHECK(server.becomes("cbtm_texts_processing", 0));
      CHECK(server.becomes("cbtm_requests_cancelled_total", before + 1));
      CHECK(server.metric("cbtm_requests_deferred") == 0);
    }
  // One that has said all it wants, and is answered at once.
  HttpConnection half(server.port());
  half.send(http_text("GET", "/health"));
  half.half_close();
  CHECK(half.reply().status == 200);
}

TEST_CASE("a full queue: 429, when to come again, and nobody in it is lost") {
  const ServedRun server({"--parallel", "1", "--queue", "2"});
  const std::string request = posted({{"prompt", "flour"}, {"max_tokens", 60}, {"seed", 1}, {"ignore_eos", true}});
  std::vector<HttpConnection> clients;
  for (int i = 0; i < 100; ++i) clients.emplace_back(server.port());
  for (HttpConnection& client : clients) client.send(request);
  int served = 0, refused = 0;
  for (HttpConnection& client : clients) {
    const HttpReply reply = client.reply();
    if (reply.status == 200) {
      ++served;
      CHECK(reply.json()["usage"]["total_tokens"] == 64);  // the whole context
      continue;
    }
    ++refused;
    check_refused(reply, 429, "queue is full");
    CHECK(reply.headers.at("retry-after") == "1");
  }
  CHECK(served >= 2);
  CHECK(refused >= 1);
  CHECK(server.metric("cbtm_requests_refused_total") == refused);
  CHECK(server.complete({{"prompt", "flour"}, {"max_tokens", 2}})["choices"].size() == 1);
}

TEST_CASE("a short request gets its turn beside one of many texts") {
  const ServedRun server({"--parallel", "2"});
  HttpConnection many(server.port());
  many.send(posted(long_work(400)));
  CHECK(server.becomes("cbtm_texts_processing", 2));
  CHECK(server.complete({{"prompt", "flour"}, {"max_tokens", 2}})["choices"].size() == 1);
  CHECK(server.metric("cbtm_texts_processing") == 2);  // the other goes on
}

TEST_CASE("clients that send nothing, or only a part, do not stop others, and are sent away") {
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);
  const size_t count = std::min<size_t>(1000, files.rlim_cur - 64);
  const ServedRun server({"--timeout", "2"});
  std::vector<HttpConnection> silent;
  for (size_t i = 0; i < count; ++i) silent.emplace_back(server.port());
  HttpConnection partial(server.port());
  partial.send("POST /tokenize HTTP/1.1\r\nContent-Length: 100\r\n\r\n{");
  CHECK(server.complete({{"prompt", "flour"}, {"max_tokens", 4}})["choices"].size() == 1);
  check_refused(partial.reply(), 408, "2");
  for (HttpConnection& connection : silent) CHECK(connection.receive_all(10).empty());
}

TEST_CASE("a reader that is behind gets its whole stream, in larger pieces") {
  constexpr int kTexts = 250;  // more than the system holds of a connection
  const ServedRun server;
  Json work = long_work(kTexts);
  work["logprobs"] = 20;
  const Json reply = server.complete(work);
  const Json& whole = reply["choices"];
  work["stream"] = true;
  HttpConnection behind(server.port());
  behind.send(posted(work));
  const double generated = reply["usage"]["completion_tokens"];
  CHECK(server.becomes("cbtm_tokens_predicted_total", 2 * generated));  // all is there, and waits
  std::vector<std::string> texts(kTexts);
  std::vector<size_t> tokens(kTexts, 0);
  size_t events = 0;
  for (const Json& event : events_of(behind.reply().body)) {
    const Json& choice = event["choices"][0];
    texts[choice["index"].get<size_t>()] += choice["text"].get<std::string>();
    tokens[choice["index"].get<size_t>()] += choice["logprobs"]["tokens"].size();
    ++events;
  }
  size_t total = 0;
  for (size_t i = 0; i < size_t{kTexts}; ++i) {
    CHECK(texts[i] == whole[i]["text"]);
    CHECK(tokens[i] == whole[i]["logprobs"]["tokens"].size());
    total += tokens[i];
  }
  CHECK(events < total);
}

TEST_CASE("a reader that is too slow loses its stream, and memory stays bounded") {
  const ServedRun server({"--timeout", "1"});
  Json work = long_work(600);
  work["stream"] = true;
  work["logprobs"] = 20;
  HttpConnection slow(server.port());
  const int small = 4096;
  ::setsockopt(slow.socket(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  slow.send(posted(work));
  CHECK(server.becomes("cbtm_requests_cancelled_total", 1));
  CHECK(server.becomes("cbtm_texts_processing", 0));
  CHECK(server.complete({{"prompt", "flour"}, {"max_tokens", 4}})["choices"].size() == 1);
}

TEST_CASE("SIGTERM: requests that run end, new ones are refused, the exit code is 0") {
  ServedRun server;
  Json work = long_work(60);
  work["stream"] = true;
  HttpConnection running(server.port());
  running.send(posted(work));
  CHECK(running.receive_until("data: "));
  server.process().send(SIGTERM);
  const HttpReply reply = running.reply();
  size_t ended = 0;
  for (const Json& event : events_of(reply.body))
    for (const Json& choice : event["choices"]) ended += choice["finish_reason"] == "length" ? 1 : 0;
  CHECK(ended == 60);
  CHECK(running.receive_all(10).empty());
  const Outcome outcome = server.process().wait();
  CHECK(outcome.exit_code == 0);
  CHECK_THROWS(HttpConnection(server.port()));
}

TEST_CASE("what does not end within --drain is cut, with a proper end") {
  ServedRun server({"--drain", "0.2", "--parallel", "2"});
  Json work = long_work(1000);
  work["stream"] = true;
  HttpConnection running(server.port());
  running.send(posted(work));
  CHECK(running.receive_until("data: "));
  server.process().send(SIGTERM);
  int cut = 0;
  for (const Json& event : events_of(running.reply().body))
    for (const Json& choice : event["choices"]) cut += choice["finish_reason"] == "abort" ? 1 : 0;
  CHECK(cut > 0);
  CHECK(server.process().wait().exit_code == 0);
}

TEST_CASE("experts are opened again by request and by SIGHUP, and no request is lost") {
  TinyRunCopy copy;
  std::filesystem::remove_all(copy / "run");
  std::filesystem::copy(trained_run() / "run", copy / "run", std::filesystem::copy_options::recursive);
  ServedRun server({"--parallel", "4"}, copy.path());
  HttpConnection running(server.port());
  running.send(posted(long_work(100)));
  CHECK(server.becomes("cbtm_texts_processing", 4));
  std::filesystem::rename(copy / "run/experts/002", copy / "away");
  const HttpReply reloaded = http_post(server.port(), "/v1/experts/reload", std::string());
  CHECK(reloaded.status == 200);
  CHECK(reloaded.json()["data"].size() == 5);
  check_refused(server.post("/v1/completions", {{"prompt", "a"}, {"model", "expert-002"}}), 404, "expert-002");
  CHECK(server.complete({{"prompt", "flour"}, {"max_tokens", 4}})["choices"].size() == 1);
  CHECK(running.reply().json()["choices"].size() == 100);
  std::filesystem::rename(copy / "away", copy / "run/experts/002");
  server.process().send(SIGHUP);
  CHECK(server.becomes("cbtm_reloads_total", 2));
  CHECK(server.get("/v1/models").json()["data"].size() == 6);
  // Experts that cannot be opened: the old ones stay.
  std::filesystem::rename(copy / "run/experts", copy / "away");
  check_refused(http_post(server.port(), "/v1/experts/reload", std::string()), 500, "experts");
  CHECK(server.get("/v1/models").json()["data"].size() == 6);
  CHECK(server.complete({{"prompt", "flour"}, {"max_tokens", 4}})["choices"].size() == 1);
}

TEST_CASE("weights that become shorter under the server end it with a line that names them") {
  TinyRunCopy copy;
  std::filesystem::remove_all(copy / "run");
  std::filesystem::copy(trained_run() / "run", copy / "run", std::filesystem::copy_options::recursive);
  ServedRun server({}, copy.path());
  CHECK(server.complete({{"prompt", "flour"}, {"max_tokens", 1}})["choices"].size() == 1);
  for (const char* expert : {"000", "001", "002"})
    std::filesystem::resize_file(copy / ("run/experts/" + std::string(expert) + "/model.safetensors"), 1000);
  HttpConnection asking(server.port());
  asking.send(posted({{"prompt", "flour oven"}, {"max_tokens", 4}}));
  const Outcome outcome = server.process().wait();
  CHECK(outcome.exit_code == 1);
  CHECK(outcome.errors.find("model.safetensors: became shorter while it was read") != std::string::npos);
}

TEST_CASE("the log: one line for each request, in a file of its own") {
  const std::filesystem::path log = trained_run() / "requests.jsonl";
  std::filesystem::remove(log);
  {
    ServedRun server({"--log", "requests.jsonl"});
    server.complete({{"prompt", "flour"}, {"max_tokens", 3}, {"ignore_eos", true}});
    server.get("/nothing");
    server.process().send(SIGTERM);
    CHECK(server.process().wait().exit_code == 0);
  }
  std::ifstream file(log);
  std::vector<Json> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(Json::parse(line));
  REQUIRE(lines.size() == 2);
  CHECK(lines[0]["path"] == "/v1/completions");
  CHECK(lines[0]["status"] == 200);
  CHECK(lines[0]["completion_tokens"] == 3);
  CHECK(lines[0]["client"] == "127.0.0.1");
  CHECK(lines[0]["time"].get<std::string>().ends_with("Z"));
  CHECK(lines[1]["status"] == 404);
}

int free_port() {
  const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  REQUIRE(::bind(listener, reinterpret_cast<sockaddr*>(&address), length) == 0);
  ::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length);
  ::close(listener);
  return ntohs(address.sin_port);
}

TEST_CASE("it listens at once, and says that it is loading until it is ready") {
  trained_run();
  bool loading = false;
  for (int tries = 0; tries < 20 && !loading; ++tries) {
    const int port = free_port();
    Process process(
        cbtm_command({"serve", "--experts", "run/experts", "--threads", "1", "--port", std::to_string(port)}),
        trained_run());
    for (int status = 0; status != 200 && !process.ended();) {
      try {
        const HttpReply reply = http_get(port, "/health");
        status = reply.status;
        if (status != 503) continue;
        loading = true;
        check_refused(reply, 503, "loading model");
        CHECK(reply.headers.contains("retry-after"));
      } catch (const std::runtime_error&) {  // it does not listen yet
      }
    }
    CHECK(!process.ended());
  }
  CHECK(loading);
}

TEST_CASE("an address that others reach, without a key, is said loudly") {
  ServedRun server({"--host", "0.0.0.0"});
  CHECK(server.process().errors().find("ANYBODY") != std::string::npos);
  ServedRun guarded({"--host", "0.0.0.0", "--api-key", "secret"});
  CHECK(guarded.process().errors().find("ANYBODY") == std::string::npos);
}

}  // namespace
}  // namespace cbtm
