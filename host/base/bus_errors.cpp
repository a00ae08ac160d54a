#include "base/bus_errors.h"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <mutex>

#include "cbtm/base/error.h"

namespace cbtm {
namespace {

/// A mapped range. Ranges are never freed, only used again: the signal handler walks them at any moment, without locks.
struct Range {
  std::atomic<uintptr_t> begin = 0;  ///< 0: not in use
  std::atomic<size_t> bytes = 0;
  std::string name;  ///< set before begin is
  Range* next = nullptr;
  Range* next_free = nullptr;
};

std::atomic<Range*> ranges = nullptr;
Range* free_ranges = nullptr;  // under changes
std::mutex changes;
struct sigaction earlier_action {};

void write_text(const char* text, size_t bytes) {
  while (bytes > 0) {
    const ssize_t written = ::write(STDERR_FILENO, text, bytes);
    if (written <= 0) return;
    text += written;
    bytes -= static_cast<size_t>(written);
  }
}

extern "C" void on_bus_error(int signal, siginfo_t* info, void*) {
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  if (info->si_code > 0) {  // from the kernel: a page, not another process's kill()
    for (const Range* range = ranges.load(std::memory_order_acquire); range != nullptr; range = range->next) {
      const uintptr_t begin = range->begin.load(std::memory_order_acquire);
      if (begin == 0 || address < begin || address - begin >= range->bytes.load(std::memory_order_relaxed)) continue;
      constexpr char kProgram[] = "cbtm: ";
      constexpr char kReason[] =
          ": became shorter while it was read, or its disk failed; let nothing change it, copy it again if it is "
          "damaged, and start the same command again\n";
      if (::isatty(STDERR_FILENO) != 0) write_text("\r\x1b[K", 4);
      write_text(kProgram, sizeof kProgram - 1);
      write_text(range->name.data(), range->name.size());
      write_text(kReason, sizeof kReason - 1);
      ::_exit(kExitFailure);
    }
  }
  // Not ours: what was there before decides, when the same instruction fails again.
  ::sigaction(signal, &earlier_action, nullptr);
  if (info->si_code <= 0) ::raise(signal);
}

void install_handler() {
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  ::sigaction(SIGBUS, &action, &earlier_action);
}

}  // namespace

void remember_mapping(const void* begin, size_t bytes, const std::string& name) {
  const std::lock_guard guard(changes);
  static const bool installed = (install_handler(), true);
  static_cast<void>(installed);
  Range* range = free_ranges;
  if (range != nullptr) {
    free_ranges = range->next_free;
  } else {
    range = new Range;
    range->next = ranges.load(std::memory_order_relaxed);
    ranges.store(range, std::memory_order_release);
  }
  range->name = name;
  range->bytes.store(bytes, std::memory_order_relaxed);
  range->begin.store(reinterpret_cast<uintptr_t>(begin), std::memory_order_release);
}

void forget_mapping(const void* begin) {
  const std::lock_guard guard(changes);
  for (Range* range = ranges.load(std::memory_order_relaxed); range != nullptr; range = range->next)
    if (range->begin.load(std::memory_order_relaxed) == reinterpret_cast<uintptr_t>(begin)) {
      range->begin.store(0, std::memory_order_release);
      range->next_free = free_ranges;
      free_ranges = range;
      return;
    }
}

}  // namespace cbtm
