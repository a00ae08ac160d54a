#include "serve/event_loop.h"

#include <event2/event.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "cbtm/base/error.h"

namespace cbtm {

struct EventLoop::Call {
  std::function<void()> work;
  event* registered = nullptr;
  ~Call() {
    if (registered != nullptr) event_free(registered);
  }
  static void run(evutil_socket_t, short, void* call) { static_cast<Call*>(call)->work(); }
};

EventLoop::EventLoop() : base_(event_base_new()), wake_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (base_ == nullptr || wake_ < 0) fail("the server's event loop cannot be made: {}", errno_text());
  auto call = std::make_unique<Call>();
  call->work = [this] { run_posted(); };
  call->registered = event_new(base_, wake_, EV_READ | EV_PERSIST, Call::run, call.get());
  event_add(call->registered, nullptr);
  calls_.push_back(std::move(call));
}

EventLoop::~EventLoop() {
  calls_.clear();
  event_base_free(base_);
  ::close(wake_);
}

void EventLoop::run() { event_base_dispatch(base_); }
void EventLoop::stop() { event_base_loopbreak(base_); }

void EventLoop::post(std::function<void()> work) {
  {
    const std::lock_guard lock(mutex_);
    posted_.push_back(std::move(work));
  }
  const uint64_t one = 1;
  static_cast<void>(::write(wake_, &one, sizeof one) < 0);  // it can only be full, and then the loop is awake
}

void EventLoop::run_posted() {
  uint64_t count = 0;
  static_cast<void>(::read(wake_, &count, sizeof count) < 0);
  std::vector<std::function<void()>> posted;
  {
    const std::lock_guard lock(mutex_);
    posted.swap(posted_);
  }
  for (const auto& work : posted) work();
}

void EventLoop::on_signal(int signal, std::function<void()> work) {
  auto call = std::make_unique<Call>();
  call->work = std::move(work);
  call->registered = evsignal_new(base_, signal, Call::run, call.get());
  event_add(call->registered, nullptr);
  calls_.push_back(std::move(call));
}

void EventLoop::every(double seconds, std::function<void()> work) {
  auto call = std::make_unique<Call>();
  call->work = std::move(work);
  call->registered = event_new(base_, -1, EV_PERSIST, Call::run, call.get());
  const timeval interval{static_cast<time_t>(seconds),
                         static_cast<suseconds_t>((seconds - static_cast<double>(static_cast<time_t>(seconds))) * 1e6)};
  event_add(call->registered, &interval);
  calls_.push_back(std::move(call));
}

}  // namespace cbtm
