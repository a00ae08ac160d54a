#include "cbtm/base/signals.h"

#include <unistd.h>

#include <csignal>
#include <initializer_list>

namespace cbtm {
namespace {

volatile std::sig_atomic_t requested_signal = 0;

extern "C" void on_stop_signal(int signal) {
  if (requested_signal != 0 && signal != SIGUSR1) ::_exit(128 + signal);
  requested_signal = signal;
}

}  // namespace

void install_stop_signals() {
  struct sigaction action {};
  action.sa_handler = on_stop_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1}) sigaction(signal, &action, nullptr);
}

int stop_requested() { return requested_signal; }

}  // namespace cbtm
