#include "cbtm/base/error.h"
#include "commands/commands.h"

namespace cbtm {

int run_generate(int, char**) { fail("generate: not built yet"); }

}  // namespace cbtm
