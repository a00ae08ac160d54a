#include "train/device_threads.h"

#include <utility>

#include "cbtm/base/error.h"
#include "cbtm/device/device_error.h"

namespace cbtm {

DeviceThreads::DeviceThreads(std::span<Device* const> devices, std::function<void()> stop_others)
    : devices_(devices.begin(), devices.end()), stop_others_(std::move(stop_others)), tasks_(devices.size()) {
  for (size_t number = 0; number < devices_.size(); ++number) threads_.emplace_back([this, number] { run(number); });
}

DeviceThreads::~DeviceThreads() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void DeviceThreads::post(size_t device, std::function<void()> task) {
  const std::lock_guard lock(mutex_);
  if (failure_ != nullptr) return;
  tasks_[device].push_back(std::move(task));
  ++unfinished_;
  changed_.notify_all();
}

void DeviceThreads::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return unfinished_ == 0; });
  if (failure_ != nullptr) std::rethrow_exception(failure_);
}

void DeviceThreads::run(size_t number) {
  std::deque<std::function<void()>>& tasks = tasks_[number];
  std::unique_lock lock(mutex_);
  bool bound = false;
  while (true) {
    changed_.wait(lock, [&] { return ending_ || !tasks.empty(); });
    if (tasks.empty()) return;
    const std::function<void()> task = std::move(tasks.front());
    tasks.pop_front();
    if (failure_ == nullptr) {
      lock.unlock();
      try {
        if (!std::exchange(bound, true)) devices_[number]->bind_thread();
        task();
      } catch (...) {
        keep_failure(*devices_[number]);
      }
      lock.lock();
    }
    if (--unfinished_ == 0) changed_.notify_all();
  }
}

/// The exception at work, unless another came first, which is then the reason of this one.
void DeviceThreads::keep_failure(const Device& device) {
  std::exception_ptr failure = std::current_exception();
  try {
    throw;
  } catch (const DeviceError& error) {
    const std::string description = device.description();
    failure = std::make_exception_ptr(
        DeviceError(fmt::format("{}: {}", description.substr(0, description.find(' ')), error.what())));
  } catch (...) {  // stays as it is
  }
  {
    const std::lock_guard lock(mutex_);
    if (failure_ != nullptr) return;
    failure_ = failure;
  }
  stop_others_();
}

}  // namespace cbtm
