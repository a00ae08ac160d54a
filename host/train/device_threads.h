#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "cbtm/device/device.h"

namespace cbtm {

/// A thread for each device of a group, which runs the tasks it is given in their order.
class DeviceThreads {
 public:
  /// `stop_others`: called once, on the thread of the first task that fails, before its failure is told; it ends what
  /// the other devices wait for.
  DeviceThreads(std::span<Device* const> devices, std::function<void()> stop_others);
  DeviceThreads(const DeviceThreads&) = delete;
  DeviceThreads& operator=(const DeviceThreads&) = delete;
  /// Waits for the tasks.
  ~DeviceThreads();

  /// Does not wait. After a failure tasks are dropped.
  void post(size_t device, std::function<void()> task);
  /// Until all tasks given so far are done. Throws the first failure, with the name of its device.
  void wait();

 private:
  void run(size_t number);
  void keep_failure(const Device& device);

  std::vector<Device*> devices_;
  std::function<void()> stop_others_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::deque<std::function<void()>>> tasks_;
  size_t unfinished_ = 0;
  bool ending_ = false;
  std::exception_ptr failure_;
  std::vector<std::thread> threads_;
};

}  // namespace cbtm
