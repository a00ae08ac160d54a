#include "serve/engine.h"

#include <algorithm>
#include <csignal>
#include <exception>

#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"
#include "cbtm/device/open_device.h"

namespace cbtm {

Engine::Engine(const Settings& settings, ServeMetrics& metrics, Events events)
    : settings_(settings), metrics_(metrics), events_(std::move(events)) {
  // Signals are for the thread that runs the event loop, but for those of an instruction itself, which end the process
  // without a word where they are blocked: a file of weights that becomes shorter is SIGBUS (base/bus_errors.h).
  sigset_t others, before;
  sigfillset(&others);
  for (const int own : {SIGBUS, SIGSEGV, SIGFPE, SIGILL}) sigdelset(&others, own);
  pthread_sigmask(SIG_SETMASK, &others, &before);
  thread_ = std::thread([this] { run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Engine::~Engine() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

std::shared_ptr<const Catalog> Engine::catalog() const {
  const std::lock_guard lock(mutex_);
  return catalog_;
}

bool Engine::submit(std::shared_ptr<Job> job) {
  {
    const std::lock_guard lock(mutex_);
    if (waiting_count_ >= settings_.queue) {
      ++metrics_.refused;
      return false;
    }
    ++waiting_count_;
    submitted_.push_back(std::move(job));
  }
  changed_.notify_one();
  return true;
}

void Engine::wake() {
  {
    const std::lock_guard lock(mutex_);
    woken_ = true;
  }
  changed_.notify_one();
}

void Engine::reload(std::function<void(const std::string&)> done) {
  {
    const std::lock_guard lock(mutex_);
    reloads_.push_back(std::move(done));
  }
  changed_.notify_one();
}

void Engine::finish() {
  {
    const std::lock_guard lock(mutex_);
    finishing_ = true;
  }
  changed_.notify_one();
}

void Engine::cut() {
  {
    const std::lock_guard lock(mutex_);
    cut_ = finishing_ = true;
  }
  changed_.notify_one();
}

int64_t Engine::running() const {
  int64_t running = 0;
  for (const auto& lane : lanes_) running += lane->running();
  return running;
}

void Engine::run() {
  try {
    device_ = open_device(settings_.device);
    std::shared_ptr<const Catalog> opened = Catalog::open(settings_.files, device_);
    make_memory(*opened);
    lanes_.push_back(
        std::make_unique<Lane>(*device_, opened, opened->models().front(), settings_.files.weights, memory_, metrics_));
    {
      const std::lock_guard lock(mutex_);
      catalog_ = std::move(opened);
    }
    events_.ready();
  } catch (...) {
    events_.failed(std::current_exception());
    return;
  }
  for (;;) {
    bool reload = false, cut = false;
    {
      std::unique_lock lock(mutex_);
      const auto has_work = [&] {
        return !submitted_.empty() || !reloads_.empty() || woken_ || cut_ || stopping_ || !waiting_.empty() ||
               running() > 0;
      };
      if (finishing_ && !has_work()) {
        events_.idle();
        finishing_ = false;
      }
      changed_.wait(lock, [&] { return has_work() || finishing_; });
      if (stopping_) return;
      woken_ = false;
      cut = std::exchange(cut_, false);
      reload = !reloads_.empty();
      for (std::shared_ptr<Job>& job : submitted_) waiting_.push_back({std::move(job)});
      submitted_.clear();
    }
    drop_cancelled();
    if (cut) {
      for (const auto& lane : lanes_) lane->end_all("abort", "");
      end_waiting("abort");
    }
    if (reload) open_again();
    start_waiting();
    do_step();
    drop_old_lanes();
  }
}

/// All models, old ones and new ones while experts are opened again, share one memory.
void Engine::make_memory(const Catalog& catalog) {
  const int64_t bytes = settings_.memory_bytes > 0 ? settings_.memory_bytes : default_memory_bytes(*device_);
  const ExpertSet* const experts = catalog.experts();
  memory_ = std::make_shared<ModelMemory>(*device_, bytes,
                                          experts != nullptr ? static_cast<int64_t>(experts->experts().size()) : 1);
  memory_->caches.set_prompt_cache(settings_.prompt_cache_bytes.value_or(bytes / 8));
}

void Engine::do_step() {
  for (size_t i = 0; i < lanes_.size(); ++i) {
    if (lanes_[i]->running() == 0) continue;
    try {
      lanes_[i]->step();
    } catch (const std::exception& error) {
      // Whose fault it was is not known, and what the lane holds neither: it begins anew.
      warn(fmt::format("requests end with an error: {}", error.what()));
      lanes_[i]->end_all("error", error.what());
      lanes_.erase(lanes_.begin() + static_cast<std::ptrdiff_t>(i));
      --i;
    }
  }
  metrics_.texts_running = running();
  count_memory(*memory_, metrics_);
}

void Engine::open_again() {
  std::string problem;
  try {
    std::shared_ptr<const Catalog> opened = Catalog::open(settings_.files, device_);
    const Lane* before = nullptr;
    for (const auto& lane : lanes_)
      if (lane->serves_ensemble()) before = lane.get();  // the newest is the last
    auto lane = std::make_unique<Lane>(*device_, opened, opened->models().front(), settings_.files.weights, memory_,
                                       metrics_, before);
    lanes_.push_back(std::move(lane));
    const std::lock_guard lock(mutex_);
    catalog_ = std::move(opened);
    ++metrics_.reloads;
  } catch (const std::exception& error) {
    problem = error.what();
    warn(fmt::format("the experts are not opened again: {}", problem));
  }
  std::vector<std::function<void(const std::string&)>> asked;
  {
    const std::lock_guard lock(mutex_);
    asked.swap(reloads_);
  }
  for (const auto& done : asked) done(problem);
}

Lane& Engine::lane_of(const Job& job) {
  for (const auto& lane : lanes_)
    if (lane->serves(job)) return *lane;
  lanes_.push_back(
      std::make_unique<Lane>(*device_, job.catalog, *job.model, settings_.files.weights, memory_, metrics_));
  return *lanes_.back();
}

void Engine::start_waiting() {
  while (!waiting_.empty() && running() < settings_.parallel) {
    Waiting first = std::move(waiting_.front());
    waiting_.pop_front();
    if (first.next == 0) --waiting_count_;
    try {
      lane_of(*first.job).start(first.job, first.next);
      ++first.next;
    } catch (const std::exception& error) {  // its model cannot be loaded
      for (; first.next < first.job->texts(); ++first.next)
        first.job->on_update({.text = first.next, .finish = "error", .error = error.what()});
    }
    if (first.next < first.job->texts()) waiting_.push_back(std::move(first));
  }
  metrics_.requests_waiting = waiting_count_.load();
}

void Engine::drop_cancelled() {
  std::erase_if(waiting_, [&](const Waiting& waiting) {
    if (!waiting.job->cancelled) return false;
    if (waiting.next == 0) --waiting_count_;
    return true;
  });
  for (const auto& lane : lanes_) lane->remove_cancelled();
}

void Engine::end_waiting(const std::string& finish) {
  for (Waiting& waiting : waiting_) {
    if (waiting.next == 0) --waiting_count_;
    for (; waiting.next < waiting.job->texts(); ++waiting.next)
      waiting.job->on_update({.text = waiting.next, .finish = finish});
  }
  waiting_.clear();
}

/// Lanes of experts that were opened again since are closed when their last job has ended.
void Engine::drop_old_lanes() {
  const std::shared_ptr<const Catalog> now = catalog();
  std::erase_if(lanes_, [&](const std::unique_ptr<Lane>& lane) {
    if (&lane->catalog() == now.get() || lane->running() > 0) return false;
    return std::none_of(waiting_.begin(), waiting_.end(),
                        [&](const Waiting& waiting) { return lane->serves(*waiting.job); });
  });
}

}  // namespace cbtm
