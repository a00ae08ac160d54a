#pragma once

namespace cbtm {

/// From now on SIGTERM, SIGINT and SIGUSR1 ask the running work to save and stop; a second one of the first two ends
/// the process at once. Without this call signals have their usual effect.
void install_stop_signals();

/// The number of the signal that asked to stop, or 0. Cheap; long loops ask it between steps.
int stop_requested();

}  // namespace cbtm
