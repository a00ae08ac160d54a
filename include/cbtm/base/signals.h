#pragma once

#include <string_view>

namespace cbtm {

/// After this call SIGTERM, SIGHUP, SIGINT and SIGUSR1 ask the running work to save its state and to stop. They may
/// come more than once. Only a second SIGINT (Ctrl-C pressed again) ends the process at once. Without this call signals
/// have their usual effect.
void install_stop_signals();

/// The number of the first signal that asked to stop, or 0. It is cheap: long loops call it between steps.
int stop_requested();

/// Throws Error with kExitInterrupted if a signal asked to stop: "stopped by signal 15 in tf-idf; the same command goes
/// on". `stage` is for people: "tf-idf" or "k-means".
///
/// Every loop that can run for more than a second calls this, or stop_requested(), several times a second. Nothing is
/// saved here. It is for stages that begin again and leave their old result untouched when they end early.
void stop_if_requested(std::string_view stage);

}  // namespace cbtm
