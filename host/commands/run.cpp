#include "cbtm/base/error.h"
#include "commands/commands.h"

namespace cbtm {

int run_run(int, char**) { fail("run: not built yet"); }

}  // namespace cbtm
