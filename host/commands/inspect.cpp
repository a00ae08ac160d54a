#include "cbtm/base/error.h"
#include "commands/commands.h"

namespace cbtm {

int run_inspect(int, char**) { fail("inspect: not built yet"); }

}  // namespace cbtm
