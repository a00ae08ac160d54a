#include "cbtm/base/error.h"
#include "commands/commands.h"

namespace cbtm {

int run_ensemble(int, char**) { fail("ensemble: not built yet"); }

}  // namespace cbtm
