#include "cbtm/base/error.h"
#include "commands/commands.h"

namespace cbtm {

int run_logits(int, char**) { fail("logits: not built yet"); }

}  // namespace cbtm
