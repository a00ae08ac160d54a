#pragma once

#include <string_view>

namespace cbtm {

/// From now on SIGTERM, SIGHUP, SIGINT and SIGUSR1 ask the running work to save what it has and to stop. They may come
/// more than once; only a second SIGINT (Ctrl-C pressed again) ends the process at once. Without this call signals have
/// their usual effect.
void install_stop_signals();

/// The number of the first signal that asked to stop, or 0. Cheap; long loops ask it between steps.
int stop_requested();

/// Throws Error with kExitInterrupted, "stopped by signal 15 in tf-idf; the same command goes on", if a signal asked to
/// stop. Every loop that can run for more than a second calls this, or asks stop_requested(), several times a second.
/// Nothing is saved here: it is for stages that begin again, and that leave their old result untouched when they end
/// early. `stage`: for people, "tf-idf" or "k-means".
void stop_if_requested(std::string_view stage);

}  // namespace cbtm
