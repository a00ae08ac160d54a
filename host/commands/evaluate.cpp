#include "cbtm/base/error.h"
#include "commands/commands.h"

namespace cbtm {

int run_evaluate(int, char**) { fail("evaluate: not built yet"); }

}  // namespace cbtm
