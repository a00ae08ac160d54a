#pragma once

#include <doctest/doctest.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/commands/tiny_run.h"
#include "tests/serve/http_client.h"

namespace cbtm {

/// tiny_run() with experts and a baseline. Made once a process.
inline const std::filesystem::path& trained_run() {
  static const TinyRunCopy copy;
  static const bool made = [] {
    succeed(run_cbtm(tiny_training({"train_expert", "--all"}, {"--steps", "20", "--save-every", "1000"}), copy.path()));
    return true;
  }();
  static_cast<void>(made);
  return copy.path();
}

/// `cbtm serve` on trained_run(), or in another directory, on a port of its own.
class ServedRun {
 public:
  explicit ServedRun(std::vector<std::string> more = {}, const std::filesystem::path& directory = trained_run(),
                     std::vector<std::string> what = {"--experts", "run/experts"})
      : process_(command(std::move(more), std::move(what)), directory) {
    for (int tries = 0; tries < 3000 && port_ == 0; ++tries) {
      const std::string said = process_.output();
      if (const size_t at = said.rfind(':'); at != std::string::npos && said.ends_with('\n'))
        port_ = std::stoi(said.substr(at + 1));
      if (process_.ended()) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    if (port_ == 0) MESSAGE(process_.errors());
    REQUIRE(port_ != 0);
  }

  int port() const { return port_; }
  Process& process() { return process_; }
  HttpReply get(const std::string& path, const std::string& headers = "") const {
    return http_get(port_, path, headers);
  }
  HttpReply post(const std::string& path, const Json& body) const { return http_post(port_, path, body); }
  /// The reply of /v1/completions, REQUIREd to be good.
  Json complete(const Json& body) const {
    const HttpReply reply = post("/v1/completions", body);
    CAPTURE(reply.body);
    REQUIRE(reply.status == 200);
    return reply.json();
  }
  /// A number from /metrics.
  double metric(const std::string& name) const {
    const std::string text = "\n" + get("/metrics").body;
    const size_t at = text.find("\n" + name + " ");
    REQUIRE(at != std::string::npos);
    return std::stod(text.substr(at + name.size() + 2));
  }
  /// Waits until a number from /metrics is so.
  bool becomes(const std::string& name, double value) const {
    for (int tries = 0; tries < 1000; ++tries) {
      if (metric(name) == value) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

 private:
  static std::vector<std::string> command(std::vector<std::string> more, std::vector<std::string> what) {
    std::vector<std::string> words = {"serve", "--port", "0", "--threads", "1"};
    words.insert(words.end(), what.begin(), what.end());
    words.insert(words.end(), more.begin(), more.end());
    return cbtm_command(words);
  }

  Process process_;
  int port_ = 0;
};

/// {"error": {"code", "message", "type"}} with this status, and the text in its message.
inline void check_refused(const HttpReply& reply, int status, const std::string& text) {
  CAPTURE(reply.body);
  CHECK(reply.status == status);
  const Json json = Json::parse(reply.body, nullptr, false);
  REQUIRE(json.is_object());
  REQUIRE(json.contains("error"));
  CHECK(json["error"]["code"] == status);
  CHECK(json["error"]["type"].is_string());
  CHECK(json["error"]["message"].get<std::string>().find(text) != std::string::npos);
}

/// Tokens enough that a client can go away meanwhile: the tiny model has only 64 positions, so there are many texts.
inline Json long_work(int prompts = 200) {
  Json list = Json::array();
  for (int i = 0; i < prompts; ++i) list.push_back("flour oven");
  return {{"prompt", list}, {"max_tokens", 60}, {"ignore_eos", true}, {"seed", 1}};
}

}  // namespace cbtm
