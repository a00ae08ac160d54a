#include "cbtm/base/signals.h"

#include <unistd.h>

#include <csignal>
#include <initializer_list>

#include "cbtm/base/error.h"

namespace cbtm {
namespace {

volatile std::sig_atomic_t requested_signal = 0;
volatile std::sig_atomic_t interrupts = 0;

extern "C" void on_stop_signal(int signal) {
  if (signal == SIGINT) {
    if (interrupts != 0) ::_exit(128 + signal);
    interrupts = 1;
  }
  if (requested_signal == 0) requested_signal = signal;
}

}  // namespace

void install_stop_signals() {
  struct sigaction action {};
  action.sa_handler = on_stop_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (const int signal : {SIGTERM, SIGHUP, SIGINT, SIGUSR1}) sigaction(signal, &action, nullptr);
}

int stop_requested() { return requested_signal; }

void stop_if_requested(std::string_view stage) {
  if (const int signal = stop_requested(); signal != 0)
    throw Error(fmt::format("stopped by signal {} in {}; the same command goes on", signal, stage), kExitInterrupted);
}

}  // namespace cbtm
