#include "cbtm/base/error.h"
#include "commands/commands.h"

namespace cbtm {

int run_bench(int, char**) { fail("bench: not built yet"); }

}  // namespace cbtm
