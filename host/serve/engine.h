#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "serve/lane.h"

namespace cbtm {

/// Generates the texts of all requests, on a thread of its own, which alone uses the device. Texts join and leave
/// between steps. What a text gets does not depend on the others (docs/numerics.md, 'Sessions').
///
/// Texts begin when there is a place for them: the first waiting request first, and when several wait, each in its turn
/// with one text, so that a request of many prompts does not shut the others out.
class Engine {
 public:
  struct Settings {
    ServedFiles files;
    std::string device;
    int64_t memory_bytes = 0;                   ///< 0: most of what is free
    std::optional<int64_t> prompt_cache_bytes;  ///< default: an eighth of the memory; 0: none
    int64_t parallel = 32;
    int64_t queue = 256;
  };
  /// Called by the engine's thread.
  struct Events {
    std::function<void()> ready;
    std::function<void(std::exception_ptr)> failed;  ///< it cannot begin
    std::function<void()> idle;                      ///< after finish(): nothing runs or waits any more
  };

  Engine(const Settings& settings, ServeMetrics& metrics, Events events);
  ~Engine();  ///< ends the thread, after its present step
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// What is served now; null before it is ready.
  std::shared_ptr<const Catalog> catalog() const;
  /// Takes a job whose prompts have been checked. False if the queue is full.
  bool submit(std::shared_ptr<Job> job);
  /// A job was cancelled, and the thread may be asleep.
  void wake();
  /// Opens the experts again between two steps. Jobs that were submitted before end with the experts that they began
  /// with. `done` gets "" or what is wrong; then the old ones stay. Called by the engine's thread.
  void reload(std::function<void(const std::string&)> done);
  /// Events::idle is wanted as soon as nothing runs or waits.
  void finish();
  /// Ends all texts now, with the finish "abort".
  void cut();

 private:
  void run();
  void do_step();
  void make_memory(const Catalog& catalog);
  void open_again();
  void start_waiting();
  void drop_cancelled();
  Lane& lane_of(const Job& job);
  int64_t running() const;
  void end_waiting(const std::string& finish);
  void drop_old_lanes();

  struct Waiting {
    std::shared_ptr<Job> job;
    size_t next = 0;  ///< the text to start next
  };

  Settings settings_;
  ServeMetrics& metrics_;
  Events events_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::shared_ptr<const Catalog> catalog_;
  std::vector<std::shared_ptr<Job>> submitted_;
  std::vector<std::function<void(const std::string&)>> reloads_;
  bool woken_ = false, finishing_ = false, cut_ = false, stopping_ = false;

  // The thread's own.
  std::shared_ptr<Device> device_;
  std::shared_ptr<ModelMemory> memory_;  ///< of all models
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::deque<Waiting> waiting_;
  std::atomic<int64_t> waiting_count_{0};  ///< requests of waiting_ and submitted_ of which no text has started
  std::thread thread_;
};

}  // namespace cbtm
