#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

struct event;
struct event_base;

namespace cbtm {

/// libevent's loop, with what the server needs of it: signals, a clock tick, and calls from other threads.
class EventLoop {
 public:
  EventLoop();
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  event_base* base() { return base_; }
  /// Runs until stop().
  void run();
  void stop();
  /// Has `work` done by the thread that runs the loop. Any thread may call this.
  void post(std::function<void()> work);
  void on_signal(int signal, std::function<void()> work);
  void every(double seconds, std::function<void()> work);

 private:
  struct Call;
  void run_posted();

  event_base* base_ = nullptr;
  int wake_ = -1;  ///< an eventfd
  std::mutex mutex_;
  std::vector<std::function<void()>> posted_;
  std::vector<std::unique_ptr<Call>> calls_;
};

}  // namespace cbtm
