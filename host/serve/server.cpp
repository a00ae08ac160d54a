#include "cbtm/serve/server.h"

#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <optional>

#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"
#include "serve/api.h"

namespace cbtm {
namespace {

/// Connections that fit into the files that the process may open.
size_t connections_possible() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 256;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  ::getrlimit(RLIMIT_NOFILE, &limit);
  constexpr rlim_t kOwnFiles = 128, kEnough = 4096;
  return static_cast<size_t>(std::clamp<rlim_t>(limit.rlim_cur, kOwnFiles + 16, kEnough + kOwnFiles) - kOwnFiles);
}

bool is_loopback(const std::string& host) { return host == "localhost" || host == "::1" || host.starts_with("127."); }

/// What happens, in order: listening, loading, serving, draining, the end.
class Server {
 public:
  explicit Server(const ServerSettings& settings) : settings_(settings), api_(settings_, loop_, metrics_) {
    ::signal(SIGPIPE, SIG_IGN);
    HttpSettings http{.host = settings.host, .port = settings.port, .timeout = settings.timeout};
    http.connections_max = connections_possible();
    http_.emplace(
        loop_, http,
        HttpServer::Handlers{
            .request = [this](Exchange exchange, HttpRequest& request) { api_.request(exchange, request); },
            .error_body = [this](int status, const std::string& what) { return api_.malformed(status, what); },
            .gone = [this](Exchange exchange) { api_.gone(exchange); },
            .sent = [this](Exchange exchange) { api_.sent(exchange); }});
    if (!is_loopback(settings.host) && settings.api_keys.empty())
      warn(fmt::format("ANYBODY WHO REACHES {}:{} CAN USE THIS SERVER; give --api-key, or --host 127.0.0.1",
                       settings.host, http_->port()));
    for (const int signal : {SIGTERM, SIGINT}) loop_.on_signal(signal, [this] { drain(); });
    loop_.on_signal(SIGHUP, [this] { reload(); });
    loop_.every(1, [this] { tick(); });
    engine_.emplace(Engine::Settings{.files = settings.files,
                                     .device = settings.device,
                                     .memory_bytes = settings.memory_bytes,
                                     .prompt_cache_bytes = settings.prompt_cache_bytes,
                                     .parallel = settings.parallel,
                                     .queue = settings.queue},
                    metrics_,
                    Engine::Events{.ready = [this] { loop_.post([this] { ready(); }); },
                                   .failed =
                                       [this](std::exception_ptr failure) {
                                         loop_.post([this, failure] {
                                           failure_ = failure;
                                           loop_.stop();
                                         });
                                       },
                                   .idle = [this] { loop_.post([this] { engine_idle_ = true; }); }});
    api_.connect(*http_, *engine_);
  }

  void run() {
    loop_.run();
    engine_.reset();
    if (failure_ != nullptr) std::rethrow_exception(failure_);
  }

 private:
  std::string address() const {
    const bool six = settings_.host.find(':') != std::string::npos;
    return fmt::format("http://{}{}{}:{}", six ? "[" : "", settings_.host, six ? "]" : "", http_->port());
  }

  void ready() {
    fmt::print("serving {} at {}\n", engine_->catalog()->models().front().id, address());
    std::fflush(stdout);
  }

  void reload() {
    if (engine_->catalog() == nullptr) return;
    api_.reload([](const std::string& problem) {
      if (problem.empty()) say("the experts were opened again");
    });
  }

  /// No new requests; those that run have some seconds to end. A second signal ends them at once.
  void drain() {
    if (engine_->catalog() == nullptr) std::_Exit(kExitSuccess);  // still loading: there is nothing to save
    if (draining_) return engine_->cut();
    draining_ = true;
    drain_until_ =
        std::chrono::steady_clock::now() + std::chrono::milliseconds(static_cast<int64_t>(settings_.drain * 1e3));
    say("stopping: requests that run have time to end");
    api_.stop_taking();
    http_->stop_accepting();
    engine_->finish();
    loop_.every(0.02, [this] { check_drained(); });
  }

  void check_drained() {
    const auto now = std::chrono::steady_clock::now();
    if (now > drain_until_ && !cut_) {
      cut_ = true;
      engine_->cut();
    }
    // Answers still have to reach their clients, who have a moment for it.
    const bool late = now > drain_until_ + std::chrono::seconds(3);
    if ((engine_idle_ && !api_.has_open_requests() && !http_->has_connections()) || late) loop_.stop();
  }

  void tick() { api_.tick(); }

  const ServerSettings& settings_;
  EventLoop loop_;
  ServeMetrics metrics_;
  Api api_;
  std::optional<HttpServer> http_;
  std::optional<Engine> engine_;
  std::exception_ptr failure_;
  bool draining_ = false, cut_ = false, engine_idle_ = false;
  std::chrono::steady_clock::time_point drain_until_;
};

}  // namespace

void serve(const ServerSettings& settings) { Server(settings).run(); }

}  // namespace cbtm
